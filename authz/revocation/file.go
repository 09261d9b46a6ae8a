package revocation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// maxFile bounds the file that is read, in bytes.
const maxFile = 64 << 20

// File keeps entries as lines of JSON in a file, which replicas may share. A line is appended for each change; when most of
// them are out of date, the file is written anew. A line that cannot be read is an error that names it: what it said is not
// known, so that nothing may be taken for complete.
type File struct {
	path string
	seen mark
}

// mark tells one state of a file from another.
type mark struct {
	inode    uint64
	size     int64
	modified time.Time
}

var _ Keeper = (*File)(nil)

// NewFile returns the keeper at path. The file is made, readable for its owner alone, when there is something to keep.
func NewFile(path string) *File { return &File{path: path} }

func (f *File) String() string { return f.path }

// Changed looks at the file's size, time and inode.
func (f *File) Changed(context.Context) (bool, error) {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.seen != mark{}, nil
	case err != nil:
		return false, err
	}
	return markOf(info) != f.seen, nil
}

func markOf(info fs.FileInfo) mark {
	m := mark{size: info.Size(), modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		m.inode = st.Ino
	}
	return m
}

// Load reads the whole file.
func (f *File) Load(ctx context.Context) ([]Entry, error) {
	file, err := os.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		f.seen = mark{}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // only read
	if err := lock(ctx, file, syscall.LOCK_SH); err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	entries, err := f.parse(file)
	if err != nil {
		return nil, err
	}
	f.seen = markOf(info)
	return entries, nil
}

// Put appends entries, or writes the file anew.
func (f *File) Put(ctx context.Context, entries ...Entry) error {
	file, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // what was written has been synced
	kept, err := f.parse(file)
	if err != nil {
		return err
	}
	now, current := time.Now(), map[Target]Entry{}
	for _, e := range append(kept, entries...) {
		if old, ok := current[e.Target]; now.Before(e.Until) && (!ok || e.supersedes(&old)) {
			current[e.Target] = e
		}
	}
	if len(current) > MaxEntries {
		return ErrFull
	}
	if len(kept)+len(entries) > 2*len(current)+100 {
		return f.rewrite(current)
	}
	var lines []byte
	for _, e := range entries {
		lines = append(append(lines, e.encode()...), '\n')
	}
	if _, err := file.Write(lines); err != nil {
		return err
	}
	return errors.Join(file.Sync(), f.syncDir())
}

// open opens and locks the file for writing.
func (f *File) open(ctx context.Context) (*os.File, error) {
	for {
		file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lock(ctx, file, syscall.LOCK_EX); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		mine, err := file.Stat()
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if there, err := os.Stat(f.path); err == nil && os.SameFile(mine, there) {
			return file, nil
		}
		_ = file.Close() // somebody has just written it anew
	}
}

// lock waits for a lock on file until ctx ends.
func lock(ctx context.Context, file *os.File, how int) error {
	for {
		err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is locked by another process: %w", file.Name(), ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (f *File) parse(file *os.File) ([]Entry, error) {
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", f.path)
	case info.Mode().Perm()&0o002 != 0:
		return nil, fmt.Errorf("%s can be written by everybody; chmod it to 0600", f.path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", f.path, maxFile)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for number := 1; len(content) > 0; number++ {
		line, rest, whole := bytes.Cut(content, []byte{'\n'})
		if !whole {
			return nil, fmt.Errorf("%s:%d: not a whole line: a write broke off. Complete the line if you know what it said, or remove it and revoke again", f.path, number)
		}
		e, err := decode(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w. Correct the line, or remove it and revoke again", f.path, number, err)
		}
		entries, content = append(entries, e), rest
	}
	return entries, nil
}

// rewrite puts a new file in the place of the old one, which is locked.
func (f *File) rewrite(entries map[Target]Entry) error {
	next, err := os.CreateTemp(filepath.Dir(f.path), "."+filepath.Base(f.path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(next.Name()) //nolint:errcheck // it is gone when all went well
	var lines []byte
	for _, e := range entries {
		lines = append(append(lines, e.encode()...), '\n')
	}
	_, err = next.Write(lines)
	if err := errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), f.path); err != nil {
		return err
	}
	return f.syncDir()
}

// syncDir makes sure that the file's name outlives a crash of the machine, too.
func (f *File) syncDir() error {
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
