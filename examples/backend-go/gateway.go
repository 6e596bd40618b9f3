package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Gateway calls Auth Gateway as a trusted backend.
type Gateway struct {
	URL       string
	CallerKey string // its TRUSTED_CALLER_KEY
}

// Answer is what the gateway replied.
type Answer struct {
	Status     int
	RetryAfter string
	Body       []byte
}

var client = &http.Client{Timeout: 30 * time.Second}

// Call posts a body to the gateway. An error means that there was no answer.
func (g Gateway) Call(from *http.Request, path string, body any) (Answer, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return Answer{}, err
	}
	// Finish the call even if the user closes the page.
	request, err := http.NewRequestWithContext(context.WithoutCancel(from.Context()), http.MethodPost, g.URL+path, bytes.NewReader(encoded))
	if err != nil {
		return Answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", from.UserAgent()) // users recognise their sessions by it
	if g.CallerKey != "" {
		request.Header.Set("X-Caller-Key", g.CallerKey)
	}
	response, err := client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return Answer{Status: response.StatusCode, RetryAfter: response.Header.Get("Retry-After"), Body: content}, err
}

// Write replies with what the gateway replied.
func (a Answer) Write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if a.RetryAfter != "" {
		w.Header().Set("Retry-After", a.RetryAfter)
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
}
