package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// The names of the settings of traces. They are those of OpenTelemetry, with its meanings: an empty value is that of a
// variable that is not set.
const (
	EnvOTelSDKDisabled        = "OTEL_SDK_DISABLED"
	EnvOTelTracesExporter     = "OTEL_TRACES_EXPORTER"
	EnvOTelServiceName        = "OTEL_SERVICE_NAME"
	EnvOTelResourceAttributes = "OTEL_RESOURCE_ATTRIBUTES"
	EnvOTelTracesSampler      = "OTEL_TRACES_SAMPLER"
	EnvOTelTracesSamplerArg   = "OTEL_TRACES_SAMPLER_ARG"
	EnvOTelPropagators        = "OTEL_PROPAGATORS"
	EnvOTelQueueSize          = "OTEL_BSP_MAX_QUEUE_SIZE"
	EnvOTelBatchSize          = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
	EnvOTelScheduleDelay      = "OTEL_BSP_SCHEDULE_DELAY"
	EnvOTelExportTimeout      = "OTEL_BSP_EXPORT_TIMEOUT"

	// Each of these also exists only for traces, with otlpTraces in place of otlp, and then has precedence.
	EnvOTelEndpoint    = otlp + "ENDPOINT"
	EnvOTelProtocol    = otlp + "PROTOCOL"
	EnvOTelHeaders     = otlp + "HEADERS"
	EnvOTelTimeout     = otlp + "TIMEOUT"
	EnvOTelCertificate = otlp + "CERTIFICATE"
	EnvOTelClientCert  = otlp + "CLIENT_CERTIFICATE"
	EnvOTelClientKey   = otlp + "CLIENT_KEY"
	EnvOTelCompression = otlp + "COMPRESSION"
)

// OTelPrefix begins the name of each of them.
const OTelPrefix = "OTEL_"

const (
	otlp       = "OTEL_EXPORTER_OTLP_"
	otlpTraces = "OTEL_EXPORTER_OTLP_TRACES_"

	otlpHTTP    = "http/protobuf"
	otlpDefault = "http://localhost:4318"
)

// Traces configures the traces of OpenTelemetry. Enabled reports whether there are any.
type Traces struct {
	Disabled    bool
	Exporter    TracesExporter // "": ExportOTLP if there is an endpoint
	ServiceName string
	Attributes  string // of the resource; see Pairs
	Sampler     Sampler
	SamplerArg  float64
	Propagators []string // "none" or names
	QueueSize   int      // spans that wait to be exported
	BatchSize   int
	Delay       time.Duration // after which a batch is exported that is not full
	BatchTime   time.Duration // for exporting a batch, with all tries

	All  OTLP // of all signals
	Only OTLP // of traces; has precedence
}

// OTLP configures how a signal is exported.
type OTLP struct {
	Endpoint    string
	Protocol    string
	Headers     Secret // see Pairs
	Timeout     time.Duration
	Certificate string // the file of the CA certificates that are trusted
	ClientCert  string // the files of the certificate and key of the server itself
	ClientKey   string
	Compression string // "gzip" or "none"
}

// TracesExporter is what traces are exported with.
type TracesExporter string

// The values of OTEL_TRACES_EXPORTER.
const (
	ExportOTLP TracesExporter = "otlp"
	ExportNone TracesExporter = "none"
)

// Sampler decides which traces are recorded.
type Sampler string

// The values of OTEL_TRACES_SAMPLER.
const (
	AlwaysOn            Sampler = "always_on"
	AlwaysOff           Sampler = "always_off"
	TraceIDRatio        Sampler = "traceidratio"
	ParentBasedOn       Sampler = "parentbased_always_on"
	ParentBasedOff      Sampler = "parentbased_always_off"
	ParentBasedWithRate Sampler = "parentbased_traceidratio"
)

// Enabled reports whether traces are recorded and exported.
func (t Traces) Enabled() bool {
	named := t.All.Endpoint != "" || t.Only.Endpoint != ""
	return !t.Disabled && (t.Exporter == ExportOTLP || t.Exporter == "" && named)
}

// Propagates reports whether the trace of a caller may be continued.
func (t Traces) Propagates() bool { return slices.Contains(t.Propagators, "tracecontext") }

// Export returns how traces are exported. Its Endpoint is the URL that they are posted to.
func (t Traces) Export() OTLP {
	o := OTLP{
		Endpoint: t.Only.Endpoint,
		Protocol: cmp.Or(t.Only.Protocol, t.All.Protocol), Headers: cmp.Or(t.Only.Headers, t.All.Headers),
		Timeout: cmp.Or(t.Only.Timeout, t.All.Timeout), Certificate: cmp.Or(t.Only.Certificate, t.All.Certificate),
		ClientCert: cmp.Or(t.Only.ClientCert, t.All.ClientCert), ClientKey: cmp.Or(t.Only.ClientKey, t.All.ClientKey),
		Compression: cmp.Or(t.Only.Compression, t.All.Compression),
	}
	if o.Endpoint == "" {
		o.Endpoint = strings.TrimSuffix(cmp.Or(t.All.Endpoint, otlpDefault), "/") + "/v1/traces"
	}
	return o
}

// Pairs returns the pairs of OTEL_RESOURCE_ATTRIBUTES, or of the headers, in their order. The error does not repeat the
// text, because headers are secret.
func Pairs(text string) (pairs [][2]string, err error) {
	for member := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(member) == "" {
			continue
		}
		name, value, found := strings.Cut(member, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || name == "" || err != nil {
			return nil, errors.New("is malformed: write NAME=VALUE, separated by commas, and percent-encode other characters in a value")
		}
		pairs = append(pairs, [2]string{name, value})
	}
	return pairs, nil
}

// traceSettings are the rows of traces in the table. "authserver admin" records none, because its pods have no
// credential for a collector.
var traceSettings = serveOnlyRows(slices.Concat([]setting{
	{Setting: Setting{Name: EnvOTelSDKDisabled, Default: "false",
		Help: "`true` turns off traces, whatever the other settings say."},
		field: bind(func(c *Config) *bool { return &c.Traces.Disabled }, orDefault(trueFalse, "false"))},
	{Setting: Setting{Name: EnvOTelServiceName, Default: "authserver",
		Help: "The name of this service in traces."},
		field: bind(func(c *Config) *string { return &c.Traces.ServiceName }, orDefault(text, "authserver"))},
	{Setting: Setting{Name: EnvOTelResourceAttributes,
		Help: "Attributes of each trace, such as `deployment.environment.name=production,k8s.namespace.name=shop`."},
		field: bind(func(c *Config) *string { return &c.Traces.Attributes }, optional(textThat(func(s string) error {
			_, err := Pairs(s)
			return err
		})))},
	{Setting: Setting{Name: EnvOTelTracesSampler, Default: string(ParentBasedOn),
		Help: "Which requests are recorded: `always_on`, `always_off`, `traceidratio`, `parentbased_always_on`, " +
			"`parentbased_always_off` or `parentbased_traceidratio`. With `parentbased_` a trusted caller that sends " +
			"`traceparent` decides, and otherwise the rest of the name."},
		field: bind(func(c *Config) *Sampler { return &c.Traces.Sampler }, orDefault(
			oneOf(AlwaysOn, AlwaysOff, TraceIDRatio, ParentBasedOn, ParentBasedOff, ParentBasedWithRate), string(ParentBasedOn)))},
	{Setting: Setting{Name: EnvOTelTracesSamplerArg, Default: "1",
		Help: "The share of the requests that `traceidratio` records, from 0 to 1; `0.01` is 1%."},
		field: bind(func(c *Config) *float64 { return &c.Traces.SamplerArg }, orDefault(share, "1"))},
	{Setting: Setting{Name: EnvOTelPropagators, Default: "tracecontext",
		Help: "`tracecontext` continues the traces of trusted callers (W3C Trace Context); `none` continues none. " +
			"`baggage` is accepted too, and has no effect."},
		field: bind(func(c *Config) *[]string { return &c.Traces.Propagators }, orDefault(propagators, "tracecontext"))},
	{Setting: Setting{Name: EnvOTelQueueSize, Default: "2048",
		Help: "How many spans wait to be exported. Further ones are dropped."},
		field: bind(func(c *Config) *int { return &c.Traces.QueueSize }, orDefault(integer(1, 1<<20), "2048"))},
	{Setting: Setting{Name: EnvOTelBatchSize, Default: "512",
		Help: "How many spans are exported together."},
		field: bind(func(c *Config) *int { return &c.Traces.BatchSize }, orDefault(integer(1, 1<<16), "512"))},
	{Setting: Setting{Name: EnvOTelScheduleDelay, Default: "5000",
		Help: "After how many milliseconds spans are exported that do not fill a batch."},
		field: bind(func(c *Config) *time.Duration { return &c.Traces.Delay }, orDefault(wholeMilliseconds, "5000"))},
	{Setting: Setting{Name: EnvOTelExportTimeout, Default: "30000",
		Help: "How many milliseconds the export of a batch may take, with all tries."},
		field: bind(func(c *Config) *time.Duration { return &c.Traces.BatchTime }, orDefault(wholeMilliseconds, "30000"))},
}, otlpSettings(otlp, func(c *Config) *OTLP { return &c.Traces.All }),
	otlpSettings(otlpTraces, func(c *Config) *OTLP { return &c.Traces.Only }),
	[]setting{{Setting: Setting{Name: EnvOTelTracesExporter,
		DefaultText: "`otlp` if there is an endpoint, otherwise `none`",
		Help: "`otlp` exports traces, to `http://localhost:4318` if there is no endpoint; `none` records none. An endpoint " +
			"is `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`."},
		field: bind(func(c *Config) *TracesExporter { return &c.Traces.Exporter }, optional(oneOf(ExportOTLP, ExportNone)))}}))

func serveOnlyRows(rows []setting) []setting {
	for i := range rows {
		rows[i].ServeOnly = true
	}
	return rows
}

// otlpSettings are the settings of the exporter for all signals, or only for traces.
func otlpSettings(prefix string, at func(*Config) *OTLP) []setting {
	only := prefix == otlpTraces
	help := func(name, all string) string {
		if only {
			return "`" + otlp + name + "` only for traces; it has precedence."
		}
		return all
	}
	unset := func(text string) string {
		if only {
			return "that of all signals"
		}
		return text
	}
	endpointHelp := "The URL of an OpenTelemetry collector, such as `http://collector:4318`. `/v1/traces` is appended."
	if only {
		endpointHelp = "The URL that traces are posted to, such as `http://collector:4318/v1/traces`."
	}
	return []setting{
		{Setting: Setting{Name: prefix + "ENDPOINT", DefaultText: "unset", Help: endpointHelp},
			field: bind(func(c *Config) *string { return &at(c).Endpoint }, collectorURL)},
		{Setting: Setting{Name: prefix + "PROTOCOL", DefaultText: unset("`" + otlpHTTP + "`"),
			Help: help("PROTOCOL", "`"+otlpHTTP+"`, usually at port 4318. No other protocol is supported.")},
			field: bind(func(c *Config) *string { return &at(c).Protocol }, optional(text))},
		{Setting: Setting{Name: prefix + "HEADERS", Secret: true, DefaultText: unset("unset"),
			Help: help("HEADERS", "Header fields of each export, such as `authorization=Bearer%20…`, separated by commas.")},
			field: bind(func(c *Config) *Secret { return &at(c).Headers }, headerPairs)},
		{Setting: Setting{Name: prefix + "TIMEOUT", DefaultText: unset("`10000`"),
			Help: help("TIMEOUT", "How many milliseconds one try of an export may take.")},
			field: bind(func(c *Config) *time.Duration { return &at(c).Timeout }, optional(wholeMilliseconds))},
		{Setting: Setting{Name: prefix + "CERTIFICATE", DefaultText: unset("the system's"),
			Help: help("CERTIFICATE", "The file with the CA certificates that the certificate of the collector is verified with.")},
			field: bind(func(c *Config) *string { return &at(c).Certificate }, optional(text))},
		{Setting: Setting{Name: prefix + "CLIENT_CERTIFICATE", DefaultText: unset("unset"),
			Help: help("CLIENT_CERTIFICATE", "The file with the certificate that the server presents to the collector.")},
			field: bind(func(c *Config) *string { return &at(c).ClientCert }, optional(text))},
		{Setting: Setting{Name: prefix + "CLIENT_KEY", DefaultText: unset("unset"),
			Help: help("CLIENT_KEY", "The file with its private key.")},
			field: bind(func(c *Config) *string { return &at(c).ClientKey }, optional(text))},
		{Setting: Setting{Name: prefix + "COMPRESSION", DefaultText: unset("`none`"),
			Help: help("COMPRESSION", "`gzip` or `none`.")},
			field: bind(func(c *Config) *string { return &at(c).Compression }, optional(oneOf("gzip", "none")))},
	}
}

// orDefault accepts the empty text as the default, as the specification of OpenTelemetry demands.
func orDefault[T any](k parser[T], value string) parser[T] {
	parse := k.parse
	k.parse = func(s string) (T, error) { return parse(cmp.Or(s, value)) }
	return k
}

var trueFalse = parser[bool]{
	parse: func(s string) (bool, error) {
		v, err := oneOf("true", "false").parse(strings.ToLower(s))
		return v == "true", err
	},
	format: strconv.FormatBool,
}

var share = parser[float64]{
	parse: func(s string) (float64, error) {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || !(f >= 0 && f <= 1) {
			return 0, fmt.Errorf("%s is not a number from 0 to 1: write one, such as 0.01", quote(s))
		}
		return f, nil
	},
	format: func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) },
}

var wholeMilliseconds = parser[time.Duration]{
	parse: func(s string) (time.Duration, error) {
		n, err := integer(1, 600_000).parse(s)
		return time.Duration(n) * time.Millisecond, err
	},
	format: func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return strconv.FormatInt(d.Milliseconds(), 10)
	},
}

var propagators = commaSeparated(func(s string) error {
	_, err := oneOf("tracecontext", "baggage", "none").parse(s)
	return err
})

var collectorURL = optional(textThat(func(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.ContainsAny(s, "?#") {
		// The error does not repeat the value, which may contain a password.
		return errors.New("is not the URL of a collector: write an absolute URL without a user or a query, " +
			"such as http://collector:4318; a credential belongs into " + EnvOTelHeaders)
	}
	return nil
}))

var headerPairs = optional(parser[Secret]{
	parse: func(s string) (Secret, error) {
		pairs, err := Pairs(s)
		for _, p := range pairs {
			if !httpguts.ValidHeaderFieldName(p[0]) || !httpguts.ValidHeaderFieldValue(p[1]) {
				err = errors.New("has an invalid name or value of a header field: write NAME=VALUE, such as authorization=Bearer%20…")
			}
		}
		return NewSecret(s), err
	},
	format: Secret.Reveal,
})

// traceContradictions returns the settings of traces that cannot hold together.
func (c Config) traceContradictions() (problems []Problem) {
	if !c.Traces.Enabled() {
		return nil
	}
	o := c.Traces.Export()
	refuse := func(name string, only bool, format string, args ...any) {
		if only {
			name = strings.Replace(name, otlp, otlpTraces, 1)
		}
		problems = append(problems, Problem{name, fmt.Sprintf(format, args...)})
	}
	if o.Protocol != "" && o.Protocol != otlpHTTP {
		refuse(EnvOTelProtocol, c.Traces.Only.Protocol != "",
			"%s is not supported: write %s, and the port of the collector for it, usually 4318; or turn traces off with %s=none",
			quote(o.Protocol), otlpHTTP, EnvOTelTracesExporter)
	}
	if (o.ClientCert == "") != (o.ClientKey == "") {
		refuse(EnvOTelClientCert, false, "%s and %s belong together: set both, or neither", EnvOTelClientCert, EnvOTelClientKey)
	}
	if strings.HasPrefix(o.Endpoint, "http://") && (o.Certificate != "" || o.ClientCert != "") {
		refuse(EnvOTelCertificate, c.Traces.Only.Certificate != "", "the endpoint is http, so certificates have no effect: "+
			"write an endpoint with https, or remove the certificates")
	}
	if c.Traces.BatchSize > c.Traces.QueueSize {
		refuse(EnvOTelBatchSize, false, "is %d, more than the %d of %s: write at most that",
			c.Traces.BatchSize, c.Traces.QueueSize, EnvOTelQueueSize)
	}
	if slices.Contains(c.Traces.Propagators, "none") && len(c.Traces.Propagators) > 1 {
		refuse(EnvOTelPropagators, false, "none excludes the others: write only none, or remove it")
	}
	return problems
}

// HeaderFields returns the header fields of the exporter.
func (o OTLP) HeaderFields() map[string]string {
	pairs, _ := Pairs(o.Headers.Reveal()) // valid: the parser has checked them
	fields := make(map[string]string, len(pairs))
	for _, p := range pairs {
		fields[http.CanonicalHeaderKey(p[0])] = p[1]
	}
	return fields
}
