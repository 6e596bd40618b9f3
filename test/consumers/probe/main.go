// Command probe runs beside a gateway in the end-to-end tests. It has only the public keys of the gateway, mounted from
// a ConfigMap. It verifies tokens with them and sends requests and load.
//
//	POST /verify         verifies the token in the body: 200 and its claims, or 401
//	POST /requests       sends one request from here, and returns the reply
//	POST /loads          starts a load (load.Order): 201 and {"id"}
//	GET /loads/{id}      returns its progress (load.Report)
//	DELETE /loads/{id}   stops it, and returns the result
//	GET /healthz
//
// It can also be a mail server:
//
//	GET /mails           returns {"mails"}: senders, recipients and texts
//
// Settings: KEYS_DIR (/keys), ISSUER, LISTEN (:8080); for a mail server SMTP_LISTEN, and TLS_DIR (/tls) with tls.crt
// and tls.key.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/auth-gateway/auth-gateway/test/e2e/load"
	"github.com/auth-gateway/auth-gateway/verify"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &probe{
		issuer: os.Getenv("ISSUER"),
		dir:    cmp.Or(os.Getenv("KEYS_DIR"), "/keys"),
		loads:  map[string]*load.Load{},
	}
	a.keys = load.NewDirectory(a.dir, 2*time.Second)
	server := &http.Server{Addr: cmp.Or(os.Getenv("LISTEN"), ":8080"), Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if address := os.Getenv("SMTP_LISTEN"); address != "" {
		go func() {
			if err := a.mailbox.serve(ctx, address, cmp.Or(os.Getenv("TLS_DIR"), "/tls")); err != nil && ctx.Err() == nil {
				log.Fatal(err)
			}
		}()
	}
	log.Printf("verifying tokens of %s, listening at %s", a.issuer, server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

type probe struct {
	issuer  string
	dir     string
	keys    *load.Directory
	mailbox mailbox

	mu    sync.Mutex
	loads map[string]*load.Load
}

func (a *probe) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, struct{}{}) })
	mux.HandleFunc("POST /verify", a.verify)
	mux.HandleFunc("POST /requests", request)
	mux.HandleFunc("GET /mails", a.mailbox.list)
	mux.HandleFunc("POST /loads", a.begin)
	mux.HandleFunc("GET /loads/{id}", a.report((*load.Load).Report))
	mux.HandleFunc("DELETE /loads/{id}", a.report((*load.Load).Stop))
	return mux
}

func (a *probe) verify(w http.ResponseWriter, r *http.Request) {
	token, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	claims, err := load.Verify(strings.TrimSpace(string(token)), a.issuer, a.keys)
	if err != nil {
		refuse(w, http.StatusUnauthorized, err)
		return
	}
	reply(w, http.StatusOK, claims)
}

// direct opens a connection for each request, because the gateway's pods come and go.
var direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// request sends one request from the pod, because only pods can reach the gateway.
func request(w http.ResponseWriter, r *http.Request) {
	var order struct {
		Method, URL, Body string
		Header            map[string]string
	}
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	out, err := http.NewRequestWithContext(ctx, order.Method, order.URL, strings.NewReader(order.Body))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	for name, value := range order.Header {
		out.Header.Set(name, value)
	}
	response, err := direct.Do(out)
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	reply(w, http.StatusOK, map[string]any{"status": response.StatusCode, "body": string(body)})
}

func (a *probe) begin(w http.ResponseWriter, r *http.Request) {
	var order load.Order
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	consumers, err := a.consumers(r.Context(), order.Gateway)
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	l, err := load.Start(r.Context(), order, consumers...)
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	a.mu.Lock()
	id := strconv.Itoa(len(a.loads) + 1)
	a.loads[id] = l
	a.mu.Unlock()
	reply(w, http.StatusCreated, map[string]string{"id": id})
}

// consumers returns the services that verify the tokens of a load: one with a library that is not ours, and two with
// the module verify. They live as long as the probe.
func (a *probe) consumers(ctx context.Context, issuer string) ([]load.Consumer, error) {
	all := []load.Consumer{{Name: "directory, go-jose", Verify: func(token string) error {
		_, err := load.Verify(token, issuer, a.keys)
		return err
	}}}
	for _, c := range []struct {
		name string
		from verify.Source
	}{{"directory, verify", verify.FromDir(a.dir)}, {"URL, verify", verify.FromURL(issuer)}} {
		v, err := verify.New(ctx, c.from, verify.Audience(issuer), verify.Issuer(issuer))
		if err != nil {
			return nil, err
		}
		all = append(all, load.Consumer{Name: c.name, Verify: func(token string) error {
			_, err := v.Verify(context.Background(), token)
			return err
		}})
	}
	return all, nil
}

func (a *probe) report(of func(*load.Load) load.Report) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		l := a.loads[r.PathValue("id")]
		a.mu.Unlock()
		if l == nil {
			refuse(w, http.StatusNotFound, errors.New("unknown load"))
			return
		}
		reply(w, http.StatusOK, of(l))
	}
}

func refuse(w http.ResponseWriter, status int, err error) {
	reply(w, status, map[string]string{"error": err.Error()})
}

// reply marks the replies of the probe, because a proxy on the way can reply too.
func reply(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Probe", "e2e")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(content); err != nil {
		log.Print("reply: ", err)
	}
}
