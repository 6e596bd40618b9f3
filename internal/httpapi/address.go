package httpapi

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/valyala/fasthttp"
)

// The fields in which proxies send the client's address.
const (
	AnyProxyField      = "any"
	fieldForwarded     = "Forwarded" // RFC 7239
	fieldXForwardedFor = "X-Forwarded-For"
)

// clientAddress returns the address of the client: the address of the connection, or the one
// that the trusted proxies report.
func (s *Server) clientAddress(ctx *fasthttp.RequestCtx) netip.Addr {
	peer, _ := netip.AddrFromSlice(ctx.RemoteIP())
	peer = peer.Unmap()
	if s.proxyHops == 0 {
		return peer
	}
	h := &ctx.Request.Header
	said := func(field string) string {
		if s.proxyField != field && s.proxyField != AnyProxyField && s.proxyField != "" {
			return "" // the client may have written it
		}
		return joined(h, field)
	}
	return forwardedAddress(peer, s.proxyHops, said(fieldForwarded), said(fieldXForwardedFor))
}

// joined returns all lines of a field as one list (RFC 9110 section 5.3). Some proxies append to
// the received line, others add a line.
func joined(h *fasthttp.RequestHeader, name string) string {
	var lines [][]byte
	for value := range headValues(h, name) {
		lines = append(lines, value)
	}
	return string(bytes.Join(lines, []byte(",")))
}

// forwardedAddress returns the address that the outermost trusted proxy saw. Each proxy appends, on the right, the
// address that its request came from, and the last proxy is the peer. Entries further to the left may be forged
// (CVE-2026-24000), so they are not even parsed. It returns the peer, which a client cannot choose, in all doubtful
// cases: the list is too short or malformed, the entry is not an address, or the two fields differ, because then a
// proxy passed on one that it did not write.
func forwardedAddress(peer netip.Addr, hops int, forwarded, xForwardedFor string) netip.Addr {
	var said netip.Addr
	for _, field := range []struct {
		list string
		node func(element string) (node string, ok bool)
	}{
		{forwarded, forwardedFor},
		{xForwardedFor, func(element string) (string, bool) { return element, element != "" }},
	} {
		if field.list == "" {
			continue
		}
		node, ok := nthFromRight(field.list, hops, field.node)
		if !ok {
			return peer
		}
		address, ok := nodeAddress(node)
		if !ok || said.IsValid() && address != said {
			return peer
		}
		said = address
	}
	if !said.IsValid() {
		return peer
	}
	return said
}

// nthFromRight returns the node of the nth element from the right. All elements up to it must be
// well-formed, because otherwise their boundaries are ambiguous.
func nthFromRight(list string, n int, parse func(string) (string, bool)) (node string, ok bool) {
	for range n {
		if list == "" {
			return "", false
		}
		comma := strings.LastIndexByte(list, ',')
		if node, ok = parse(strings.Trim(list[comma+1:], " \t")); !ok {
			return "", false
		}
		list = list[:max(comma, 0)]
	}
	return node, true
}

// forwardedFor returns the parameter "for" of an element of Forwarded (RFC 7239 section 4). It
// refuses quoted strings with a comma, semicolon, quote or backslash: no address contains one,
// and elements are split from the right, where a quote left open by a client must not matter.
func forwardedFor(element string) (node string, ok bool) {
	for pair := range strings.SplitSeq(element, ";") {
		name, value, _ := strings.Cut(pair, "=")
		if inner, quoted := strings.CutPrefix(value, `"`); quoted {
			if value, quoted = strings.CutSuffix(inner, `"`); !quoted || strings.ContainsAny(value, `"\`) {
				return "", false
			}
		} else if !isToken([]byte(value)) {
			return "", false
		}
		if strings.EqualFold(name, "for") {
			if node != "" || value == "" {
				return "", false
			}
			node = value
		}
	}
	return node, node != ""
}

// nodeAddress parses an address as written by proxies: with or without a port, and IPv6 with brackets or, in
// X-Forwarded-For, without. It refuses names such as unknown and _hidden (RFC 7239 section 6).
func nodeAddress(node string) (netip.Addr, bool) {
	address, err := netip.ParseAddr(node)
	if err != nil {
		if strings.HasSuffix(node, "]") {
			node += ":0"
		}
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(node)
		address = withPort.Addr()
	}
	if err != nil || address.Zone() != "" {
		return netip.Addr{}, false
	}
	return address.Unmap(), true
}
