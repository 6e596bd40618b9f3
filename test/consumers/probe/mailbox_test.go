package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/auth-gateway/auth-gateway/internal/testenv"
)

const aMail = "From: Shop <no-reply@example.com>\r\nTo: ada@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n" +
	"MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n" +
	"--b\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n<p>no\r\n" +
	"--b\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nhttps://example.com/verify#ABC=\r\nDEF\r\n--b--\r\n"

func TestAMailIsKeptAsThePersonWouldReadIt(t *testing.T) {
	t.Parallel()
	a := &probe{}
	// Any certificate will do for the test.
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	listener := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	server := a.mailbox.server(certificate.TLS.Certificates[0])
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	address := listener.Addr().String()

	plain := testenv.Must(smtp.Dial(address))(t)
	defer plain.Close()
	if err := plain.Mail("a@example.com", nil); err == nil {
		t.Error("the mailbox accepts mail from a client that has not signed in")
	}
	if ok, _ := plain.Extension("AUTH"); ok {
		t.Error("the mailbox offers AUTH without TLS")
	}

	client := testenv.Must(smtp.DialStartTLS(address, &tls.Config{InsecureSkipVerify: true}))(t)
	defer client.Close()
	testenv.NoError(t, client.Auth(sasl.NewPlainClient("", "shop", "x")))
	testenv.NoError(t, client.SendMail("no-reply@example.com", []string{"ada@example.com"}, strings.NewReader(aMail)))
	if err := client.SendMail("no-reply@example.com", []string{"ada@example.com"}, strings.NewReader("no mail")); err == nil {
		t.Error("the mailbox accepts an invalid mail")
	}

	recorder := httptest.NewRecorder()
	a.handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/mails", bytes.NewReader(nil)))
	var box struct{ Mails []received }
	testenv.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &box))
	if len(box.Mails) != 1 {
		t.Fatalf("there are %d mails", len(box.Mails))
	}
	m := box.Mails[0]
	if m.User != "shop" || m.From != "no-reply@example.com" || !slices.Equal(m.To, []string{"ada@example.com"}) || m.Subject != "Grüße" ||
		strings.TrimSpace(m.Text) != "https://example.com/verify#ABCDEF" {
		t.Errorf("the mail is %+v", m)
	}
}
