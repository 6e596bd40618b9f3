import time

from authlib.jose import JsonWebKey, JsonWebToken  # Debian's python3-authlib

from judge import AUDIENCE, ISSUER, fetch, judge

METADATA = fetch(ISSUER + "/.well-known/openid-configuration")
decoder = JsonWebToken(METADATA["id_token_signing_alg_values_supported"])
keys, fetched = None, 0.0


def verify(token):
    global keys, fetched
    if time.monotonic() - fetched > 1:  # authlib leaves fetching to the application
        keys, fetched = JsonWebKey.import_key_set(fetch(METADATA["jwks_uri"])), time.monotonic()
    claims = decoder.decode(token, keys, claims_options={
        "iss": {"essential": True, "value": ISSUER},
        "aud": {"essential": True, "value": AUDIENCE},
        "sub": {"essential": True},
        "exp": {"essential": True},
    })
    claims.validate()
    return claims["sub"]


judge(verify)
