//! OCI bundle to running process
