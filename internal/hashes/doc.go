// Package hashes knows the hashes of passwords that are stored: which kinds there are, what a check costs, and in which
// form the hash of another system is stored.
//
//	own       $2a$COST$…                       bcrypt of a password of at most 72 bytes
//	          $sha384$2a$COST$…                bcrypt of the SHA-384 of a longer one
//	imported  $2b$COST$…                       bcrypt of the first 72 bytes of a password
//	          $argon2id$v=19$m=,t=,p=$…$…      and $argon2i$…
//	          $scrypt$ln=,r=,p=$…$…
//	          $pbkdf2-sha256$i=,l=$…$…         and $pbkdf2-sha1$…, $pbkdf2-sha512$…; l is the length of the hash
//	          $fbscrypt$v=1,n=,r=,p=1,ss=,sk=$…$…   Firebase: scrypt, and AES-CTR of the project's signer key
//	          $md5$2b$COST$…                   bcrypt of the digest, in hex; and $sha1$2b$…, $sha256$2b$…
//	none      !                                no password matches
//	          $migrate$$                       none matches here, but another system knows the password
//
// Everything up to the last two fields (of bcrypt: up to the cost) is the Scheme of a hash. All hashes of one scheme
// take the same work, and the database finds the schemes that are in use by an index.
//
// Passwords are checked against all kinds, but only the own ones are made: the next sign-in replaces an imported hash.
// The primitives come from the standard library and golang.org/x/crypto.
package hashes
