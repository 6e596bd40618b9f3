package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/auth-gateway/auth-gateway/internal/endings"
	"github.com/auth-gateway/auth-gateway/internal/httpapi"
	"github.com/auth-gateway/auth-gateway/internal/identity"
	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

// endingsStub waits until it is released, or its context ends, or its client has gone.
type endingsStub struct {
	waiting  atomic.Int64
	released chan struct{}
	answer   endings.Answer
}

func (s *endingsStub) Next(
	ctx context.Context, _ string, _ time.Duration, connected func() bool,
) (endings.Answer, error) {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	for connected() {
		select {
		case <-s.released:
			return s.answer, nil
		case <-ctx.Done():
			return endings.Answer{Next: "the end"}, nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	return endings.Answer{}, context.Canceled
}

func TestEndingsBoundWaitingConsumers(t *testing.T) {
	t.Parallel()
	stub := &endingsStub{released: make(chan struct{}), answer: endings.Answer{Next: "next", More: true, Endings: []endings.Announced{
		{Kind: endings.Session, ID: userID, Until: 1767226560}, {Kind: endings.Key, ID: "thumbprint", Until: 1767226561},
	}}}
	s := start(t, func(o *httpapi.Options) { o.Endings, o.Memory = stub, 1 })
	const most = 18 // a quarter of the least memory
	statuses := make(chan int, most)
	ask := func(ctx context.Context) (int, string) {
		req := testenv.Must(http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/sessions/ended?wait=25", nil))(t)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, ""
		}
		defer resp.Body.Close()
		var body strings.Builder
		_ = resp.Write(&body)
		return resp.StatusCode, body.String()
	}
	leaving, leave := context.WithCancel(t.Context())
	for i := range most {
		ctx := t.Context()
		if i == 0 {
			ctx = leaving
		}
		go func() {
			status, _ := ask(ctx)
			statuses <- status
		}()
		testenv.Until(t, 10*time.Second, "it waits", func() bool { return stub.waiting.Load() == int64(i+1) })
	}
	status, body := ask(t.Context())
	if status != 503 || !strings.Contains(body, "too_many_waiting") || !strings.Contains(body, "Retry-After: 5") {
		t.Errorf("one more than may wait: %d %s", status, body)
	}
	leave()
	testenv.Until(t, 10*time.Second, "one has gone", func() bool { return stub.waiting.Load() == most-1 })
	close(stub.released)
	status, body = ask(t.Context())
	const wanted = `{"ended":[{"kind":"sid","id":"` + userID + `","until":1767226560},` +
		`{"kind":"kid","id":"thumbprint","until":1767226561}],"next":"next","more":true}`
	if status != 200 || !strings.Contains(body, wanted) || !strings.Contains(body, "Cache-Control: no-store") {
		t.Errorf("an answer: %d %s", status, body)
	}
	for range most {
		if status := <-statuses; status != 200 && status != 0 {
			t.Errorf("one that waited got %d", status)
		}
	}
}

// Strangers must not read which sessions end.
func TestEndingsOfAPublicGatewayNeedAKey(t *testing.T) {
	t.Parallel()
	const key = "the key of the trusted caller"
	for _, tc := range []struct {
		exposure  identity.Exposure
		set, sent string
		status    int
		words     string
	}{
		{identity.ExposurePublic, "", "", 403, "set TRUSTED_CALLER_KEY"},
		{identity.ExposurePublic, "", key, 403, `"reason":"caller_key_not_set"`},
		{identity.ExposurePublic, key, "", 403, `"reason":"caller_key_missing"`},
		{identity.ExposurePublic, key, "x" + key, 403, `"reason":"caller_key_wrong"`},
		{identity.ExposurePublic, key, key, 200, `"next":"next"`},
		{identity.ExposureInternal, "", "", 200, `"next":"next"`},
		{identity.ExposureInternal, key, "", 403, `"reason":"caller_key_missing"`},
		{identity.ExposureInternal, key, key, 200, `"next":"next"`},
	} {
		stub := &endingsStub{released: make(chan struct{}), answer: endings.Answer{Next: "next"}}
		close(stub.released)
		s := start(t, func(o *httpapi.Options) { o.Endings, o.Exposure, o.TrustedCallerKey = stub, tc.exposure, tc.set })
		h := http.Header{}
		if tc.sent != "" {
			h.Set("X-Caller-Key", tc.sent)
		}
		testenv.Expect(t, s.Do("GET", "/sessions/ended", h, nil), tc.status, tc.words)
	}
}
