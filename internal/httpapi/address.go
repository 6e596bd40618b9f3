package httpapi

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/valyala/fasthttp"
)

// The fields in which proxies tell the client's address.
const (
	AnyProxyField      = "any"
	fieldForwarded     = "Forwarded" // RFC 7239
	fieldXForwardedFor = "X-Forwarded-For"
)

// clientAddress gives the address of who made the request: the connection's, or
// what the trusted proxies say.
func (s *Server) clientAddress(ctx *fasthttp.RequestCtx) netip.Addr {
	peer, _ := netip.AddrFromSlice(ctx.RemoteIP())
	peer = peer.Unmap()
	if s.proxyHops == 0 {
		return peer
	}
	h := &ctx.Request.Header
	said := func(field string) string {
		if s.proxyField != field && s.proxyField != AnyProxyField && s.proxyField != "" {
			return "" // anybody may have written it
		}
		return joined(h, field)
	}
	return forwardedAddress(peer, s.proxyHops, said(fieldForwarded), said(fieldXForwardedFor))
}

// joined gives the lines of a field as the one list that they are (RFC 9110
// section 5.3): some proxies add to the line that they got, some add a line.
func joined(h *fasthttp.RequestHeader, name string) string {
	var lines [][]byte
	for value := range headValues(h, name) {
		lines = append(lines, value)
	}
	return string(bytes.Join(lines, []byte(",")))
}

// forwardedAddress gives the address that the outermost of the trusted proxies
// saw: each adds, on the right, the address that its request came from, and the
// last of them is the peer. What stands further to the left, anybody may have
// written (CVE-2026-24000), so it is neither believed nor even parsed. In doubt
// the answer is the peer, which nobody can choose: a list that is too short or
// malformed, a name in place of an address, or two fields that differ, one of
// which a proxy then did not write but pass on.
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

// nthFromRight gives the node of the nth element from the right. All that are
// counted must be well-formed, or nobody knows where an element begins.
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

// forwardedFor gives the parameter "for" of an element of Forwarded (RFC 7239
// section 4). A quoted string with a comma, a semicolon, a quote or a backslash
// in it is malformed here: no address has one, and the elements are found
// from the right, where a quote that a client left open must not matter.
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

// nodeAddress reads an address as proxies write it: with or without a port, and
// IPv6 in brackets or, in X-Forwarded-For, without. Names such as unknown and
// _hidden (RFC 7239 section 6) are none.
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
