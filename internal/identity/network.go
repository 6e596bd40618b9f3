package identity

import (
	"context"
	"net/netip"
)

// Network is the network of a client, as far as its address shows: an IPv4 address, or the /64 of an IPv6 address,
// which one customer has. It is as personal as the address. Empty: unknown.
type Network string

// KnownNetworks is how many known networks the Store keeps for an account.
const KnownNetworks = 20

// The prefix lengths that separate one customer from another.
const (
	networkBits4 = 32
	networkBits6 = 64
)

// NetworkOf returns the network of an address. IPv4 in IPv6 is IPv4.
func NetworkOf(address netip.Addr) Network {
	if !address.IsValid() {
		return ""
	}
	address = address.Unmap().WithZone("")
	bits := networkBits6
	if address.Is4() {
		bits = networkBits4
	}
	return Network(netip.PrefixFrom(address, bits).Masked().String())
}

// callerNetwork returns the network of the caller of ctx.
func callerNetwork(ctx context.Context) Network { return NetworkOf(CallerOf(ctx).Address) }
