//! Pods and containers as state machines
