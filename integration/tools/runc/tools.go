//go:build tools

// Package tools keeps runc, which runtime handlers of the suites use, among the
// requirements of this module.
package tools

import _ "github.com/opencontainers/runc"
