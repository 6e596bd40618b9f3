# A line of standard input is a token, a line of standard output is the verdict.
require "json"
require "jwt" # Debian's ruby-jwt
require "net/http"

ISSUER, AUDIENCE = ENV.fetch("ISSUER"), ENV.fetch("AUDIENCE")

def fetch(url)
  JSON.parse(Net::HTTP.get(URI(url)))
end

metadata = fetch("#{ISSUER}/.well-known/openid-configuration")
keys, fetched = nil, 0
# ruby-jwt calls the loader again with kid_not_found if the set has no such key.
loader = lambda do |options|
  now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
  if keys.nil? || options[:kid_not_found] || now - fetched > 1
    keys, fetched = fetch(metadata["jwks_uri"]), now
  end
  keys
end

$stdout.sync = true
$stdin.each_line do |token|
  begin
    claims, = JWT.decode(token.strip, nil, true, algorithms: %w[ES256 RS256], jwks: loader,
                         iss: ISSUER, verify_iss: true, aud: AUDIENCE, verify_aud: true)
    puts JSON.generate(subject: claims["sub"])
  rescue StandardError => e
    puts JSON.generate(error: "#{e.class}: #{e.message}")
  end
end
