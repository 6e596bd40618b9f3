package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxTokenClaims bounds the list. The length of the claims in a token is bounded apart.
const maxTokenClaims = 20

var claimName = regexp.MustCompile(`^[!\x23-\x2b\x2d-\x5b\x5d-\x7e]{1,100}$`)

// registeredClaims are the names of the gateway's claims, and those of the IANA registry of JSON Web Token Claims. Consumers
// give them a meaning that the metadata of an account does not have.
var registeredClaims = strings.Fields(`
	iss sub aud exp nbf iat jti client_id scope sid gen username email email_verified name auth_time roles
	act acr address amr at_hash at_use_nbr attest authorization_details azp birthdate birth_family_name birth_given_name
	birth_middle_name c_hash cdniv cdnicrit cdniip cdniuc cdniets cdnistt cdnistd cnf dest div entitlements events exi
	family_name gender given_name groups htm htu ath jcard locale may_act mgf middle_name mky msisdn nationalities nickname
	nonce orig origid opt oemboot oemid dbgstat picture phone_number phone_number_verified place_of_birth preferred_username
	profile psat rdap_dnr_title rph salutation s_hash sip_callid sip_cseq_num sip_date sip_from_tag sip_via_branch status
	sub_id sub_jwk sph submods swname swversion title toe token_introspection transaction_claims trust_framework txn tvp
	ueid uptime updated_at vc verified_claims vot vp vtm website zoneinfo _claim_names _claim_sources _sd _sd_alg
`)

// tokenClaims are names of claims, separated by commas.
var tokenClaims = parser[[]string]{
	parse: func(s string) ([]string, error) {
		var list []string
		for name := range strings.SplitSeq(s, ",") {
			name = strings.TrimSpace(name)
			is := func(other string) bool { return strings.EqualFold(name, other) }
			switch {
			case name == "" && s == "":
				continue
			case !claimName.MatchString(name):
				return nil, fmt.Errorf("%s is not the name of a claim: write ASCII without spaces, commas, quotes or backslashes, "+
					"such as plan or https://shop.example.com/plan", quote(name))
			case slices.ContainsFunc(registeredClaims, is):
				return nil, fmt.Errorf("%s is the name of a claim of the gateway, or a registered one with a meaning of its own: "+
					"write another, such as https://shop.example.com/%s, and name the member of the metadata so", quote(name), name)
			case slices.ContainsFunc(list, is):
				return nil, fmt.Errorf("%s is listed twice: write it once", quote(name))
			}
			list = append(list, name)
		}
		if len(list) > maxTokenClaims {
			return nil, fmt.Errorf("has %d claims: write at most %d", len(list), maxTokenClaims)
		}
		return list, nil
	},
	format: func(list []string) string { return strings.Join(list, ",") },
}
