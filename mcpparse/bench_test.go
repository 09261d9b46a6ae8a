package mcpparse_test

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/mcpparse"
)

// call returns a tools/call whose arguments are a list of records, about size bytes in all.
func call(size int) []byte {
	var args strings.Builder
	for i := 0; args.Len() < size-150; i++ {
		fmt.Fprintf(&args, `{"id":"item-%d","title":"some text or other","price":%d.5,"open":true},`, i, i)
	}
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"my_server_list_issues","arguments":{"records":[%s]}}}`,
		strings.TrimSuffix(args.String(), ","))
}

func BenchmarkParse(b *testing.B) {
	for _, size := range []int{250, 16 << 10} {
		body := call(size)
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				m, err := mcpparse.Parse(body)
				if err != nil {
					b.Fatal(err)
				}
				if out := m.Splice(m.SetName("list_issues")); len(out) == 0 {
					b.Fatal("empty")
				}
			}
		})
	}
}

func BenchmarkToolListRenamed(b *testing.B) {
	var list bytes.Buffer
	list.WriteString(`{"tools":[`)
	for i := range 500 {
		if i > 0 {
			list.WriteByte(',')
		}
		fmt.Fprintf(&list, `{"name":"tool_%d","title":"Tool","description":%q,"inputSchema":{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"number"}},"required":["a"]}}`,
			i, strings.Repeat("what it does ", 10))
	}
	list.WriteString(`]}`)
	b.ReportAllocs()
	b.SetBytes(int64(list.Len()))
	for b.Loop() {
		items, _, _, err := mcpparse.List("tools/list", list.Bytes())
		if err != nil {
			b.Fatal(err)
		}
		for _, i := range items {
			if len(i.Renamed("srv_"+i.Name)) == 0 {
				b.Fatal("empty")
			}
		}
	}
}

// A call costs the garbage collector its name, the new name and the new body, however long it is. The parser is pooled; the
// race detector makes pools forget, so the least of many runs counts.
func TestParseAllocates(t *testing.T) {
	for _, size := range []int{250, 16 << 10} {
		body := call(size)
		least := math.Inf(1)
		for range 50 {
			n := testing.AllocsPerRun(1, func() {
				m, err := mcpparse.Parse(body)
				if err != nil || len(m.Splice(m.SetName("list_issues"))) == 0 {
					t.Error(err)
				}
			})
			least = min(least, n)
		}
		if least != 3 {
			t.Errorf("%d bytes: %v allocations", size, least)
		}
	}
}
