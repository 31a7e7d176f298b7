//! Cgroups v1, hybrid and v2
