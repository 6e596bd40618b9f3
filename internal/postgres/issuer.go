package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// RememberIssuer returns the issuer of the gateways that share this database. The first caller sets it.
func (s *Store) RememberIssuer(ctx context.Context, issuer string) (remembered string, err error) {
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := named("InsertIssuer").exec(ctx, tx, pgx.NamedArgs{"issuer": issuer}); err != nil {
			return err
		}
		return named("FindIssuer").queryRow(ctx, tx, nil).Scan(&remembered)
	})
	return remembered, err
}

// ChangeIssuer replaces the issuer if it is still the previous one. A second run changes nothing more.
func (s *Store) ChangeIssuer(ctx context.Context, previous, issuer string) error {
	return s.exec(ctx, repeatable, named("ChangeIssuer"), pgx.NamedArgs{"previous": previous, "issuer": issuer})
}

// Issuer returns the issuer, or "" if none is set.
func (s *Store) Issuer(ctx context.Context) (issuer string, err error) {
	err = s.queryRow(ctx, repeatable, named("FindIssuer"), nil, &issuer)
	return issuer, noRowsIs(err, nil)
}
