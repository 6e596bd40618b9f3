import jwt  # Debian's python3-jwt

from judge import AUDIENCE, ISSUER, fetch, judge

METADATA = fetch(ISSUER + "/.well-known/openid-configuration")
keys = jwt.PyJWKClient(METADATA["jwks_uri"], cache_jwk_set=True, lifespan=2)


def verify(token):
    key = keys.get_signing_key_from_jwt(token)
    claims = jwt.decode(
        token, key.key, algorithms=METADATA["id_token_signing_alg_values_supported"],
        audience=AUDIENCE, issuer=ISSUER, options={"require": ["exp", "iat", "sub", "aud", "iss"]},
    )
    return claims["sub"]


judge(verify)
