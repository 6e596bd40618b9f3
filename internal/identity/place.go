package identity

import (
	"context"
	"net/netip"
)

// Place is where a client is, as far as its address tells: an IPv4 address, or
// the /64 of an IPv6 address, all of which one customer has. It is as personal
// as the address. Empty: not known.
type Place string

// placeBits is how much of an address tells one customer from another.
const (
	placeBits4 = 32
	placeBits6 = 64
)

// PlaceOf gives the place of an address. IPv4 in IPv6 is IPv4.
func PlaceOf(address netip.Addr) Place {
	if !address.IsValid() {
		return ""
	}
	address = address.Unmap().WithZone("")
	bits := placeBits6
	if address.Is4() {
		bits = placeBits4
	}
	return Place(netip.PrefixFrom(address, bits).Masked().String())
}

// placeOf gives the place of who asked for what is done in ctx.
func placeOf(ctx context.Context) Place { return PlaceOf(ClientAddress(ctx)) }
