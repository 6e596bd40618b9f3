package postgres

import (
	"context"
	"net"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// openings limits how many connections a process opens at a time. To open one costs PostgreSQL more than most
// statements do. If every replica opened all of its connections at once on a busy machine, none would be open in time;
// each would then be given up and tried again, and it would never end.
type openings chan struct{}

func newOpenings(most int) openings { return make(openings, most) }

// begin waits until a connection may be opened. It makes cc report when that has succeeded or failed.
func (o openings) begin(ctx context.Context, cc *pgx.ConnConfig) error {
	select {
	case o <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	end := sync.OnceFunc(func() { <-o })
	lookup, dial, validate := cc.LookupFunc, cc.DialFunc, cc.ValidateConnect
	cc.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		addresses, err := lookup(ctx, host)
		if err != nil {
			end()
		}
		return addresses, err
	}
	cc.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			end()
			return nil, err
		}
		return &openingConn{conn, end}, nil
	}
	cc.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		err := validate(ctx, conn)
		if err == nil {
			end()
		}
		return err
	}
	return nil
}

// openingConn reports that it was closed: the driver closes a connection that it cannot use.
type openingConn struct {
	net.Conn
	end func()
}

func (c *openingConn) Close() error {
	c.end()
	return c.Conn.Close()
}
