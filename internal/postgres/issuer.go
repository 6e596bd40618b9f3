package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// RememberIssuer gives what the gateways of this database are known by: what was
// remembered, or, where nothing was, the issuer given.
func (s *Store) RememberIssuer(ctx context.Context, issuer string) (remembered string, err error) {
	const (
		find   = `SELECT issuer FROM gateway`
		insert = `INSERT INTO gateway (issuer) VALUES ($1) ON CONFLICT DO NOTHING`
	)
	err = s.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insert, issuer); err != nil {
			return err
		}
		return tx.QueryRow(ctx, find).Scan(&remembered)
	})
	return remembered, err
}

// ChangeIssuer replaces what is remembered, if it is still before. To do so twice
// changes nothing more.
func (s *Store) ChangeIssuer(ctx context.Context, before, issuer string) error {
	return s.exec(ctx, repeatable, `UPDATE gateway SET issuer = $2 WHERE issuer = $1`, before, issuer)
}

// Issuer reads what is remembered; "" where nothing is.
func (s *Store) Issuer(ctx context.Context) (issuer string, err error) {
	err = s.query(ctx, repeatable, into(&issuer), `SELECT issuer FROM gateway`)
	return issuer, noRowsIs(err, nil)
}
