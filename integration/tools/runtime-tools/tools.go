//go:build tools

// Package tools keeps the validation programs of the OCI among the requirements of this module.
package tools

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/linux_cgroups_cpus"
	_ "github.com/opencontainers/runtime-tools/validation/linux_seccomp"
	_ "github.com/opencontainers/runtime-tools/validation/process_capabilities"
	_ "github.com/opencontainers/runtime-tools/validation/state"
)
