package sts

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const maxKeyFile = 64 << 10

// directory keeps keys in files. One that we made has a number for a name, and
// says above its PEM block (explanatory text, RFC 7468 §2) from when it signs.
type directory struct{ path string }

const signsFrom = "Signs-From: "

var ownName = regexp.MustCompile(`^[0-9]{6,12}\.pem$`)

// look is a digest of the directory that changes when its keys do.
func look(files []fs.FileInfo) string {
	var b strings.Builder
	for _, f := range files {
		fmt.Fprintf(&b, "%q %d %d %o\n", f.Name(), f.Size(), f.ModTime().UnixNano(), f.Mode())
	}
	return b.String()
}

// lastNumber is that of the newest file of our own making, 0 if there is none.
func lastNumber(files []fs.FileInfo) (last uint64) {
	for _, f := range files {
		if n, err := strconv.ParseUint(strings.TrimSuffix(f.Name(), ".pem"), 10, 40); err == nil && ownName.MatchString(f.Name()) {
			last = max(last, n)
		}
	}
	return last
}

// open makes the directory if it is not there.
func (d directory) open() ([]fs.FileInfo, error) {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, err
	}
	return d.files()
}

func (d directory) files() ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var files []fs.FileInfo
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".pem") {
			continue
		}
		info, err := os.Stat(filepath.Join(d.path, e.Name())) // of what a link points to
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		files = append(files, info)
	}
	return files, nil
}

// read reads all keys. One bad file fails it, so that a key does not disappear
// unnoticed.
func (d directory) read(files []fs.FileInfo, ahead time.Duration) ([]*storedKey, error) {
	var keys []*storedKey
	for _, f := range files {
		key, err := d.readFile(f, ahead)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(d.path, f.Name()), err)
		}
		if !slices.ContainsFunc(keys, func(k *storedKey) bool { return k.kid == key.kid }) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func (d directory) readFile(f fs.FileInfo, ahead time.Duration) (*storedKey, error) {
	switch {
	case !f.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case f.Mode()&0o007 != 0:
		return nil, fmt.Errorf("mode %#o: everybody can use this private key; want 0600", f.Mode().Perm())
	case f.Size() > maxKeyFile:
		return nil, fmt.Errorf("larger than %d bytes", maxKeyFile)
	}
	text, err := os.ReadFile(filepath.Join(d.path, f.Name()))
	if err != nil {
		return nil, err
	}
	parsed, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	if len(parsed) != 1 {
		return nil, errors.New("more than one private key")
	}
	key := &storedKey{signingKey: parsed[0], file: f.Name(), from: f.ModTime().Add(ahead)}
	if line, ok := bytes.CutPrefix(text, []byte(signsFrom)); ok && ownName.MatchString(f.Name()) {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if key.from, err = time.Parse(time.RFC3339, string(line)); err != nil {
			return nil, errors.New("no time after " + signsFrom)
		}
		key.made = true
	}
	return key, nil
}

// add makes a key in the file of a number. The file appears whole, and only if no
// other replica has taken that number: then that replica's key will do.
func (d directory) add(number uint64, alg string, from time.Time) error {
	private, err := generateKey(alg)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	text := []byte(signsFrom + from.UTC().Format(time.RFC3339) + "\n")
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	err = d.publish(fmt.Sprintf("%06d.pem", number), text)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// publish writes a file that is not there yet, all or nothing.
func (d directory) publish(name string, text []byte) error {
	f, err := os.CreateTemp(d.path, ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // of what has another name by then, or never got one
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), filepath.Join(d.path, name)); err != nil {
		return err
	}
	dir, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (d directory) remove(name string) error {
	err := os.Remove(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another replica was faster
	}
	return err
}
