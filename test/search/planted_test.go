package search

import (
	"strings"
	"testing"
	"time"
)

// plants are faults for the database, each like one that the searches were written for.
var plants = []struct {
	fault, sql string
	telling    bool   // the search that must find it
	rule       string // a part of the rule that it reports
}{
	{"a lifted suspension gives everything back", `DROP TRIGGER users_suspended ON users`, false, "suspension gives back"},
	{"a proof blesses the password of the first sign-up that waits for the address", `
		CREATE FUNCTION first_password() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			SELECT s.password_hash INTO NEW.password_hash FROM signups s
			WHERE s.canonical_email = NEW.canonical_email ORDER BY s.created_at LIMIT 1;
			NEW.password_hash := coalesce(NEW.password_hash, 'none');
			RETURN NEW;
		END $$;
		CREATE TRIGGER planted BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION first_password()`, false, "strangers chose the password"},
	{"a sign-up that waits holds what is before the @", `CREATE UNIQUE INDEX planted ON signups (split_part(canonical_email, '@', 1))`, false, "locked out"},
	{"a new address counts before it is proved", `
		CREATE FUNCTION unproved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.canonical_unproved_email IS NOT NULL THEN
				NEW.email := NEW.unproved_email; NEW.canonical_email := NEW.canonical_unproved_email;
			END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER planted BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION unproved()`, false, "strangers have a session"},
	{"mail for an account is not taken", `
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF EXISTS (SELECT FROM users u WHERE u.canonical_email = NEW.canonical_recipient AND u.username LIKE 'olga%') THEN
				RAISE 'planted';
			END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER planted BEFORE INSERT ON mails FOR EACH ROW EXECUTE FUNCTION refuse()`, true, `"202" without`},
}

// The searches find the planted faults.
func TestSearchesFindPlantedFaults(t *testing.T) {
	for _, p := range plants {
		t.Run(p.fault, func(t *testing.T) {
			t.Parallel()
			g := start(t, "public")
			run := func(all trace) *finding { return takeover(g, all) }
			if p.telling {
				other := start(t, "public")
				run = func(all trace) *finding { return telling(g, other, all) }
			}
			g.exec(p.sql)
			began := time.Now()
			for seed := uint64(1); ; {
				_, f := look(t, &seed, 5*time.Minute-time.Since(began), run)
				if f == nil {
					t.Fatalf("not found in %d runs", seed-1)
				}
				if strings.Contains(f.rule, p.rule) {
					t.Logf("found in run %d: %s", seed-1, f.rule)
					return
				}
				t.Logf("run %d: %s", seed-1, f.rule)
			}
		})
	}
}
