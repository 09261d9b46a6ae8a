package mcpparse_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/mcpparse"
)

// notJSON are bodies that no strict reader accepts, in the manner of JSONTestSuite's n_ files.
var notJSON = map[string]string{
	"empty":                       "",
	"space":                       " ",
	"byte order mark":             "\xef\xbb\xbf{}",
	"byte order mark alone":       "\xef\xbb\xbf",
	"utf-16":                      "{\x00}\x00",
	"utf-16 with mark":            "\xff\xfe{\x00}\x00",
	"comma after a member":        `{"a":1,}`,
	"comma first":                 `{,"a":1}`,
	"two commas":                  `{"a":1,,"b":2}`,
	"comma in an array":           `{"a":[1,]}`,
	"comma alone":                 `{"a":[,]}`,
	"no comma":                    `{"a":1 "b":2}`,
	"no comma in an array":        `{"a":[1 2]}`,
	"no colon":                    `{"a" 1}`,
	"two colons":                  `{"a"::1}`,
	"colon in an array":           `{"a":["x":1]}`,
	"no value":                    `{"a":}`,
	"no name":                     `{:1}`,
	"name alone":                  `{"a"}`,
	"number as name":              `{1:1}`,
	"null as name":                `{null:1}`,
	"array as name":               `{[]:1}`,
	"bare name":                   `{a:1}`,
	"single quotes":               `{'a':1}`,
	"unclosed object":             `{"a":1`,
	"unclosed array":              `{"a":[1`,
	"unclosed string":             `{"a":"x`,
	"unclosed name":               `{"a`,
	"wrong bracket":               `{"a":[1}`,
	"wrong brace":                 `{"a":{]}`,
	"bracket too many":            `{"a":[1]]}`,
	"brace too many":              `{"a":1}}`,
	"bracket after the root":      `{"a":1}]`,
	"second value":                `{"a":1}{"a":1}`,
	"second value after a line":   "{}\n{}",
	"comma after the root":        `{"a":1},`,
	"NUL after the root":          "{}\x00",
	"form feed":                   "{}\x0c",
	"vertical tab":                "{\x0b}",
	"no-break space":              "{\u00a0}",
	"line separator":              "\u2028{}",
	"record separator":            "\x1e{}\n",
	"line comment":                "{}//x",
	"block comment":               `{/**/"a":1}`,
	"hash comment":                "#\n{}",
	"plus":                        `{"a":+1}`,
	"leading zero":                `{"a":01}`,
	"minus zero one":              `{"a":-01}`,
	"minus alone":                 `{"a":-}`,
	"two minuses":                 `{"a":--1}`,
	"dot last":                    `{"a":1.}`,
	"dot first":                   `{"a":.5}`,
	"dot and exponent":            `{"a":1.e5}`,
	"exponent without digits":     `{"a":1e}`,
	"exponent with sign only":     `{"a":1e+}`,
	"two exponents":               `{"a":1e2e3}`,
	"hexadecimal":                 `{"a":0x1}`,
	"digits with underscore":      `{"a":1_000}`,
	"NaN":                         `{"a":NaN}`,
	"Infinity":                    `{"a":-Infinity}`,
	"fullwidth digit":             `{"a":１}`,
	"True":                        `{"a":True}`,
	"tru":                         `{"a":tru}`,
	"nul":                         `{"a":nul}`,
	"undefined":                   `{"a":undefined}`,
	"escape x":                    `{"a":"\x41"}`,
	"escape quote":                `{"a":"\'"}`,
	"escape v":                    `{"a":"\v"}`,
	"escape u short":              `{"a":"\u12"}`,
	"escape u no hex":             `{"a":"\u12g4"}`,
	"escape U":                    `{"a":"\U0041"}`,
	"escape last":                 `{"a":"\"}`,
	"newline in a string":         "{\"a\":\"\n\"}",
	"tab in a string":             "{\"a\":\"\t\"}",
	"NUL in a string":             "{\"a\":\"\x00\"}",
	"unit separator in a name":    "{\"\x1f\":1}",
	"invalid UTF-8":               "{\"a\":\"\xff\"}",
	"invalid UTF-8 in a name":     "{\"\xff\":1}",
	"truncated UTF-8":             "{\"a\":\"\xe2\x82\"}",
	"overlong NUL":                "{\"a\":\"\xc0\x80\"}",
	"overlong slash":              "{\"a\":\"\xc0\xaf\"}",
	"encoded surrogate":           "{\"a\":\"\xed\xa0\x80\"}",
	"beyond Unicode":              "{\"a\":\"\xf4\x90\x80\x80\"}",
	"UTF-8 between tokens":        "{\"a\":\xe2\x82\xac}",
	"lone high surrogate":         `{"a":"\ud800"}`,
	"lone low surrogate":          `{"a":"\udc00"}`,
	"high surrogate and a letter": `{"a":"\ud800x"}`,
	"two high surrogates":         `{"a":"\ud800\ud800"}`,
	"surrogates the wrong way":    `{"a":"\udc00\ud800"}`,
	"lone surrogate in a name":    `{"\udfff":1}`,
	"duplicate":                   `{"a":1,"a":1}`,
	"duplicate by escape":         `{"a":1,"\u0061":1}`,
	"duplicate by another escape": `{"\/":1,"/":1}`,
	"duplicate by surrogates":     `{"😀":1,"\ud83d\ude00":1}`,
	"duplicate empty name":        `{"":1,"":1}`,
	"duplicate deep":              `{"a":[{"b":{"c":1,"d":2,"c":3}}]}`,
}

func TestParseRefusesWhatIsNotJSON(t *testing.T) {
	for name, text := range notJSON {
		t.Run(name, func(t *testing.T) {
			bodies := []string{text}
			if text != "" && text != " " {
				bodies = append(bodies, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":`+text+`}}`)
			}
			for _, body := range bodies {
				if _, err := mcpparse.Parse([]byte(body)); code(err) != mcpparse.CodeParse {
					t.Errorf("%q: %v", body, err)
				}
			}
		})
	}
}

// someJSON are values that every strict reader takes for the same, in the manner of JSONTestSuite's y_ files.
var someJSON = []string{
	`null`, `true`, `false`, `0`, `-0`, `1`, `-1`, `10`, `0.5`, `-0.5`, `1.0`, `1e2`, `1E2`, `1e+2`, `1e-2`, `1.5e3`,
	`123456789.123456789`, `0e1`, `0.0e-0`, `9007199254740991`, `""`, `" "`, `"a"`, `"\""`, `"\\"`, `"\/"`, `"/"`,
	`"\b\f\n\r\t"`, `"\u0000"`, `"\u0041"`, `"\u00e9"`, `"é"`, `"\ud83d\ude00"`, `"😀"`, `"\u2028"`, "\"\u2028\u2029\"", "\"\x7f\"",
	`"\uFFFF"`, "\"\ufeff\"", `"\\u0041"`, `"\\\""`, `"//"`, `"/*"`, `"[{"`, `[]`, `[ ]`, `{}`, `{ }`, `[[]]`, `[{}]`, `{"":0}`,
	`{"a":{}}`, `{"a":1,"A":2}`, `{"a":1,"b":1}`, `{"\u0061":1}`, `{"a b":1}`, `{"a.b":1}`, `[1,"a",null,true,{},[]]`,
	"[\t1\r,\n2 ]", `{"x":{"y":{"z":[1,[2,[3]]]}}}`,
}

func TestParseKeepsJSON(t *testing.T) {
	for _, v := range someJSON {
		arguments := `{"v":` + v + `}`
		m, err := mcpparse.Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":` + arguments + `}}`))
		if err != nil {
			t.Errorf("%s: %v", v, err)
			continue
		}
		if diff := cmp.Diff(arguments, string(m.Arguments)); diff != "" || m.BigNumber != "" {
			t.Errorf("%s: %s %s", v, diff, m.BigNumber)
		}
	}
}
