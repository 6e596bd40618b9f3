// Command postgres is the entry point of the PostgreSQL image that the local cluster builds from the programs of this
// machine. It supports four variables of the official image: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and PGDATA.
// Its arguments are passed to postgres.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

func main() {
	// A pod can be stopped during initialization.
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "postgres:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	bin, data := os.Getenv("PG_BIN_DIR"), os.Getenv("PGDATA")
	_, err := os.Stat(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		err = initialize(ctx, bin, data)
	}
	if err != nil {
		return err
	}
	program := filepath.Join(bin, "postgres")
	// It replaces this process, so the pod's signals reach the server.
	return syscall.Exec(program, append([]string{program, "-D", data, "-c", "listen_addresses=*"}, os.Args[1:]...), os.Environ())
}

// initialize creates the cluster in a temporary folder and renames it when it is complete, so an interrupted start
// leaves no partial cluster.
func initialize(ctx context.Context, bin, data string) error {
	unfinished := data + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	user, database := os.Getenv("POSTGRES_USER"), os.Getenv("POSTGRES_DB")
	password := filepath.Join(os.TempDir(), "password")
	if err := os.WriteFile(password, []byte(os.Getenv("POSTGRES_PASSWORD")), 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(password) }()
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata="+unfinished, "--username="+user, "--pwfile="+password,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
	initdb.Stdout, initdb.Stderr = os.Stderr, os.Stderr
	if err := initdb.Run(); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	rules, err := os.OpenFile(filepath.Join(unfinished, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(rules, "host all all all scram-sha-256"); err != nil {
		return errors.Join(err, rules.Close())
	}
	if err := rules.Close(); err != nil {
		return err
	}
	if database != "" && database != "postgres" {
		create := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--single", "-D", unfinished, "postgres")
		in, err := create.StdinPipe()
		if err != nil {
			return err
		}
		create.Stderr = os.Stderr
		if err := create.Start(); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(in, "CREATE DATABASE \"%s\"\n", database); err != nil {
			return err
		}
		if err := errors.Join(in.Close(), create.Wait()); err != nil {
			return fmt.Errorf("create the database: %w", err)
		}
	}
	return os.Rename(unfinished, data)
}
