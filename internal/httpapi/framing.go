package httpapi

import (
	"bytes"
	"strconv"
	"strings"
)

// framing tracks the requests on a connection (RFC 9112), byte by byte as they arrive. The server needs
// it for what fasthttp does not do: to determine how much memory an unfinished request needs
// (connections.go), to check the end of the request line, and to drop trailers before header fields
// are parsed. It refuses everything that it cannot frame, and never accepts more than fasthttp.
type framing struct {
	state frameState

	line    [keptOfLine]byte // the beginning of an incomplete line
	lineLen int              // the length of that line so far
	cr      bool             // its last byte is CR

	sawLength, chunked, unclear bool
	left                        int // remaining bytes of the body or the chunk
	body                        int // announced bytes of the body so far
	trailer                     int // bytes of the trailer so far
}

type frameState uint8

const (
	betweenRequests frameState = iota
	afterCR                    // in an empty line before a request (RFC 9112 section 2.2)
	inRequestLine
	inFields
	inBody
	inChunkSize
	inChunk
	inTrailer
	inTrailerEnd // after the CR of the final empty line
	unframed     // the end of the request is unknown
)

const (
	// keptOfLine is enough for a Content-Length, a Transfer-Encoding, and the name of any field
	// that is refused in a trailer.
	keptOfLine = 80

	// maxChunkLine bounds the size of a chunk and its extensions, which are ignored.
	maxChunkLine = 256
)

// advance processes received bytes. It removes trailer fields from p and returns how many bytes are left.
// A refusal applies to the byte after those.
func (f *framing) advance(p []byte) (kept int, refusal *failure) {
	for r := 0; r < len(p); {
		from := r
		switch f.state {
		case betweenRequests, afterCR:
			next, refused := f.begin(p[r])
			if refused != nil {
				return kept, refused
			}
			if f.state = next; next == inRequestLine {
				continue // the byte belongs to the line
			}
			r++
		case inBody, inChunk:
			n := min(f.left, len(p)-r)
			r += n
			if f.left -= n; f.left > 0 {
				break
			}
			if f.state == inBody {
				f.state = betweenRequests
			} else {
				f.state = inChunkSize
			}
		case inTrailerEnd:
			if p[r] != '\n' {
				return kept, errAmbiguous("the trailer does not end with CR LF")
			}
			f.state = betweenRequests
			r++
		case unframed:
			return kept, errAmbiguous("the end of the request is ambiguous")
		default:
			end := bytes.IndexByte(p[r:], '\n')
			if f.state == inTrailer && f.lineLen == 0 && p[r] == '\r' {
				f.state = inTrailerEnd
				r++
				break
			}
			dropped := f.state == inTrailer
			if end < 0 {
				r = len(p)
				f.keep(p[from:r])
			} else {
				r += end + 1
				if refused := f.endLine(p[from : r-1]); refused != nil {
					if !dropped {
						kept += copy(p[kept:], p[from:r-1])
					}
					return kept, refused
				}
			}
			if f.tooLong() {
				return kept, errAmbiguous("a line of the chunked body is too long")
			}
			if dropped {
				continue
			}
		}
		if kept == from {
			kept = r
		} else {
			kept += copy(p[kept:], p[from:r])
		}
	}
	return kept, nil
}

// begin processes the first byte of a request, or of an empty line before it.
func (f *framing) begin(b byte) (frameState, *failure) {
	switch {
	case f.state == afterCR:
		if b != '\n' {
			return f.state, errAmbiguous("an empty line does not end with CR LF")
		}
		return betweenRequests, nil
	case b == '\r':
		return afterCR, nil
	case b == tlsHandshake:
		return f.state, errAmbiguous("this port serves HTTP without TLS; TLS is terminated by the proxy in front of it")
	case !isToken([]byte{b}):
		return f.state, errAmbiguous("the request does not begin with a method")
	}
	*f = framing{}
	return inRequestLine, nil
}

// tlsHandshake is the first byte of a TLS connection (RFC 8446 section 5.1).
const tlsHandshake = 0x16

// keep stores a part of a line.
func (f *framing) keep(part []byte) {
	if len(part) == 0 {
		return
	}
	if f.lineLen < len(f.line) {
		copy(f.line[f.lineLen:], part)
	}
	f.lineLen += len(part)
	f.cr = part[len(part)-1] == '\r'
	if f.state == inTrailer {
		f.trailer += len(part)
	}
}

func (f *framing) tooLong() bool {
	return f.state == inChunkSize && f.lineLen > maxChunkLine || f.trailer > headLimit
}

// endLine processes the last part of a line, without its LF.
func (f *framing) endLine(part []byte) *failure {
	line, length := part, len(part)
	if f.lineLen > 0 {
		f.keep(part)
		line, length = f.line[:min(f.lineLen, len(f.line))], f.lineLen
	} else {
		f.cr = length > 0 && part[length-1] == '\r'
		if f.state == inTrailer {
			f.trailer += length
		}
	}
	if !f.cr {
		return errAmbiguous(lineNames[f.state] + " does not end with CR LF")
	}
	if length <= len(line) {
		line = line[:length-1] // without the CR
	}
	f.lineLen, f.cr = 0, false
	switch f.state {
	case inRequestLine:
		f.state = inFields
	case inFields:
		if len(line) == 0 {
			f.endHead()
			return nil
		}
		f.field(line, length)
	case inChunkSize:
		return f.chunk(line)
	case inTrailer:
		name, _, found := bytes.Cut(line, []byte(":"))
		if !found || !isToken(name) {
			return errAmbiguous("a trailer field does not start with a name and a colon")
		}
		for _, s := range single[:framingFields] {
			if strings.EqualFold(s, string(name)) {
				return errAmbiguous("the field " + s + " is in the trailer")
			}
		}
	}
	return nil
}

var lineNames = map[frameState]string{
	inRequestLine: "the request line", inFields: "a header line", inChunkSize: "a chunk size", inTrailer: "a trailer field",
}

// field handles the two fields that determine the end of a request. If they are not exactly as in RFC
// 9112, it only stops the framing; validateFraming refuses them when the head is complete.
func (f *framing) field(line []byte, length int) {
	switch {
	case hasName(line, "content-length:"):
		value := bytes.Trim(line[len("content-length:"):], " \t")
		n, err := strconv.ParseUint(string(value), 10, 31)
		f.unclear = f.unclear || err != nil || length > keptOfLine || f.sawLength
		f.sawLength, f.left = true, int(n)
	case hasName(line, "transfer-encoding:"):
		value := bytes.Trim(line[len("transfer-encoding:"):], " \t")
		f.unclear = f.unclear || !bytes.EqualFold(value, []byte("chunked")) || length > keptOfLine || f.chunked
		f.chunked = true
	}
}

// hasName reports whether a line begins with a name, ignoring case. name is in lower case.
func hasName(line []byte, name string) bool {
	return len(line) >= len(name) && line[0]|0x20 == name[0] && strings.EqualFold(string(line[:len(name)]), name)
}

func (f *framing) endHead() {
	switch {
	case f.unclear || f.sawLength && f.chunked:
		f.state = unframed
	case f.chunked:
		f.state = inChunkSize
	case f.left > 0:
		f.state, f.body = inBody, f.left
	default:
		f.state = betweenRequests
	}
}

// chunk processes the size of a chunk and its extensions (RFC 9112 section 7.1).
func (f *framing) chunk(line []byte) *failure {
	digits := line
	if i := bytes.IndexAny(line, "; \t"); i >= 0 {
		digits = line[:i]
	}
	n, err := strconv.ParseUint(string(digits), 16, 31)
	if err != nil {
		return errAmbiguous("a chunk does not begin with its size")
	}
	if n == 0 {
		f.state = inTrailer
		return nil
	}
	f.body = min(f.body+int(n), 1<<31-1)
	f.state, f.left = inChunk, int(n)+len("\r\n")
	return nil
}
