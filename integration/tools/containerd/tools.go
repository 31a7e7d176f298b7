//go:build tools

// Package tools keeps containerd, its client and its shim, which the suites run
// beside our own, with it and as a runtime handler, among the requirements of
// this module.
package tools

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
