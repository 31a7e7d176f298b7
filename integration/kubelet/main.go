// Command kubelet is the kubelet of Kubernetes at the version that go.mod pins.
//
// Its own main cannot be built as a dependency: Kubernetes requires its staging
// modules at v0.0.0 and replaces them by directories, and replacements hold
// only in the main module. So this is a main module with the published
// versions of the same modules.
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	os.Exit(cli.Run(app.NewKubeletCommand(context.Background())))
}
