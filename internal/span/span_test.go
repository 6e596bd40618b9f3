package span_test

import (
	"context"
	"testing"

	"github.com/auth-gateway/auth-gateway/internal/span"
)

// While traces are off, the parts of the server allocate nothing for them.
func TestSpanAllocatesNothingWhileTracesAreOff(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(context.Background(), key{}, 1)
	if n := testing.AllocsPerRun(1000, func() {
		if span.From(ctx) != nil {
			t.Error("there is a recording")
		}
		again, end := span.Begin(ctx, nil, "mail")
		end("")
		if again != ctx {
			t.Error("the context is another one")
		}
	}); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}
