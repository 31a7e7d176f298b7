//go:build tools

// Package tools keeps the stock Compose client among the
// requirements of this module.
package tools

import (
	_ "github.com/docker/compose/v2/cmd"
)
