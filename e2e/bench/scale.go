package main

import "context"

func (o *options) runScale(_ context.Context) error { return nil }
