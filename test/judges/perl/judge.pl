# A line of standard input is a token, a line of standard output is the verdict.
use strict;
use warnings;
use Crypt::JWT qw(decode_jwt);    # Debian's libcrypt-jwt-perl
use HTTP::Tiny;
use JSON::PP;

my $issuer   = $ENV{ISSUER};
my $audience = $ENV{AUDIENCE};

sub fetch {
    my $reply = HTTP::Tiny->new(timeout => 10)->get(shift);
    die "$reply->{status} $reply->{reason}\n" unless $reply->{success};
    return decode_json($reply->{content});
}

my $metadata = fetch("$issuer/.well-known/openid-configuration");
my ($keys, $fetched) = (undef, 0);
$| = 1;
while (my $token = <STDIN>) {
    chomp $token;
    my $claims = eval {
        if (time - $fetched > 1) {    # Crypt::JWT leaves fetching to the application
            ($keys, $fetched) = (fetch($metadata->{jwks_uri}), time);
        }
        decode_jwt(
            token        => $token,
            kid_keys     => $keys,
            accepted_alg => [qw(ES256 RS256 EdDSA)],
            verify_iss   => sub { $_[0] eq $issuer },
            verify_aud   => sub {
                my $aud = shift;
                grep { $_ eq $audience } ref $aud ? @$aud : $aud;
            },
            verify_exp => 1,
        );
    };
    my $error = $@;
    chomp $error;
    print encode_json($claims ? { subject => $claims->{sub} } : { error => $error || "no claims" }), "\n";
}
