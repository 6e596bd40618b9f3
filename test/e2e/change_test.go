package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/api/v1alpha1"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// The load does not retry, so it shows what a client without retries sees.
func TestAChangedSettingAndANewScaleCostNoRequest(t *testing.T) {
	t.Parallel()
	p, a := serving(t)
	before := testenv.Must(p.servers(t, "auth"))(t)
	l := a.load(t, 0, time.Minute)
	p.change(t, &v1alpha1.AuthGateway{}, "auth", `{"spec":{"passwords":{"minLength":10}}}`)
	took := p.settled(t, "auth", 2, before...)
	l.flows(t)
	l.perfect(t, fmt.Sprintf("a changed setting, rolled out in %.1f s", took.Seconds()))

	l = a.load(t, 0, time.Minute)
	begin := time.Now()
	for _, replicas := range []int{1, 5, 1} {
		p.change(t, &v1alpha1.AuthGateway{}, "auth", fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas))
		p.settled(t, "auth", replicas)
		l.flows(t)
	}
	l.perfect(t, fmt.Sprintf("scaled 2, 1, 5, 1 in %.1f s", time.Since(begin).Seconds()))
}
