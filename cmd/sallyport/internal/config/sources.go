package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

const maxFileBytes = 4 << 20

var errTooLarge = errors.New("it is larger than 4 MiB")

// sources are the files that a configuration was built from.
type sources struct {
	readFile func(string) ([]byte, error)
	sums     map[string][sha256.Size]byte // zero for a file that could not be read
}

func newSources(readFile func(string) ([]byte, error)) sources {
	if readFile == nil {
		readFile = readBounded
	}
	return sources{readFile: readFile, sums: map[string][sha256.Size]byte{}}
}

// read reads a file and remembers what it held.
func (s sources) read(path string) ([]byte, error) {
	src, err := s.readFile(path)
	if err == nil && len(src) > maxFileBytes {
		err = errTooLarge
	}
	if err != nil {
		s.sums[path] = [sha256.Size]byte{}
		return nil, err
	}
	s.sums[path] = sha256.Sum256(src)
	return src, nil
}

// readBounded reads no more of a file than it takes to see that it is too large.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
}

// Files returns the paths of all files that the configuration was built from:
// the file itself, secrets, policies and certificates, sorted. Those that could
// not be read are among them, so that a reload notices their coming.
func (c *Config) Files() []string {
	return slices.Sorted(maps.Keys(c.sources.sums))
}

// Digest returns the hex SHA-256 of what those files held when they were loaded.
func (c *Config) Digest() string {
	h := sha256.New()
	for _, path := range c.Files() {
		fmt.Fprintf(h, "%q %x\n", path, c.sources.sums[path])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Changed reads the files again and reports whether any of them holds something
// else than when it was loaded.
func (c *Config) Changed() bool {
	now := newSources(c.sources.readFile)
	for path := range c.sources.sums {
		_, _ = now.read(path) // a file that cannot be read is remembered as such
	}
	return !maps.Equal(now.sums, c.sources.sums)
}
