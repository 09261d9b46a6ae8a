package hub

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestStorePublish(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		var got [4]chan string
		var cancel [4]func()
		for i, at := range []struct {
			s     Store
			topic string
		}{{t.a, "x"}, {t.b, "x"}, {t.b, "x"}, {t.b, "y"}} {
			got[i] = make(chan string, 1000)
			var err error
			cancel[i], err = at.s.Subscribe(ctx, at.topic, func(m []byte) { got[i] <- string(m) })
			if err != nil {
				t.Fatal(err)
			}
		}
		publish := func(s Store, topic, message string) {
			t.Helper()
			if err := s.Publish(ctx, topic, []byte(message)); err != nil {
				t.Fatal(err)
			}
		}
		want := func(i int, messages ...string) {
			t.Helper()
			for _, m := range messages {
				select {
				case have := <-got[i]:
					if have != m {
						t.Fatalf("subscriber %d got %q, want %q", i, have, m)
					}
				case <-time.After(5 * time.Second):
					t.Fatalf("subscriber %d did not get %q", i, m)
				}
			}
			if len(got[i]) > 0 {
				t.Errorf("subscriber %d got more: %q", i, <-got[i])
			}
		}

		publish(t.a, "nobody's", "0")
		publish(t.a, "x", "1\r\n\x00")
		publish(t.b, "x", "2")
		publish(t.a, "y", "3")
		for i := range 3 {
			want(i, "1\r\n\x00", "2")
		}
		want(3, "3")

		cancel[2]()
		cancel[2]()
		publish(t.a, "x", "4")
		want(0, "4")
		want(1, "4")
		cancel[1]() // the last one there
		publish(t.a, "x", "5")
		publish(t.a, "y", "6")
		want(0, "5")
		want(3, "6")
		want(1)
		want(2)
		rejoined, err := t.b.Subscribe(ctx, "x", func(m []byte) { got[1] <- string(m) })
		if err != nil {
			t.Fatal(err)
		}
		publish(t.a, "x", "7")
		want(0, "7")
		want(1, "7")
		rejoined()
		cancel[0]()
		cancel[3]()
	})
}

// A subscriber gets one message at a time, in order, and what is published right after Subscribe is not missed.
func TestStoreSubscribeWhileOthersComeAndGo(t *testing.T) {
	eachStore(t, func(t *storeTest) {
		ctx := t.Context()
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				s, topic := []Store{t.a, t.b}[i%2], fmt.Sprint("topic", i%5)
				for round := range 10 {
					mine := fmt.Sprint(i, ".", round)
					seen := make(chan struct{})
					var one sync.Mutex
					cancel, err := s.Subscribe(ctx, topic, func(m []byte) {
						if !one.TryLock() {
							t.Error("two at a time")
							return
						}
						defer one.Unlock()
						if string(m) == mine {
							close(seen)
						}
					})
					if err != nil {
						t.Error(err)
						return
					}
					if err := t.a.Publish(ctx, topic, []byte(mine)); err != nil {
						t.Error(err)
					}
					select {
					case <-seen:
					case <-time.After(5 * time.Second):
						t.Errorf("%s did not arrive", mine)
					}
					cancel()
				}
			})
		}
		all.Wait()
	})
}
