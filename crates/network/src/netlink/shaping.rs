//! The token bucket that limits an interface's rate (`tc-tbf(8)`).

use super::wire::Message;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
const ROOT: u32 = 0xffff_ffff;
/// With a known link layer the kernel computes its tables itself.
const LINKLAYER_ETHERNET: u8 = 1;
/// How long a packet may wait before the queue counts as full, in milliseconds.
const LATENCY_MS: u64 = 25;
const NANOSECONDS: u64 = 1_000_000_000;
/// The scheduler's clock ticks every 64 ns (`PSCHED_SHIFT`).
const TICK_NS: u64 = 64;

/// The request that makes (or replaces) a root token bucket on the interface with `index`.
pub(super) fn token_bucket(index: u32, rate: u64, burst: u32) -> Message {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&0x1_0000u32.to_ne_bytes());
    header[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    let mut message = Message::new(
        libc::RTM_NEWQDISC,
        (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16,
        &header,
    );
    message
        .string(TCA_KIND, "tbf")
        .nest(TCA_OPTIONS, |options| {
            options
                .bytes(TBF_PARMS, &parameters(rate, burst))
                .number(TBF_BURST, burst);
            if rate > u64::from(u32::MAX) {
                options.bytes(TBF_RATE64, &rate.to_ne_bytes());
            }
        });
    message
}

/// `struct tc_tbf_qopt`: two `tc_ratespec`, limit, buffer, mtu.
fn parameters(rate: u64, burst: u32) -> Vec<u8> {
    let mut bytes = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&[0; 12]);
    let queued = rate.saturating_mul(LATENCY_MS) / 1000;
    let limit = queued.saturating_add(burst.into()).min(u32::MAX.into()) as u32;
    bytes.extend_from_slice(&limit.to_ne_bytes());
    let ticks = u64::from(burst).saturating_mul(NANOSECONDS) / rate.max(1) / TICK_NS;
    bytes.extend_from_slice(&ticks.min(u32::MAX.into()).to_ne_bytes()[..4]);
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    bytes
}
