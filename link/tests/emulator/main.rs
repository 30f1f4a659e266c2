//! The emulator with real sockets and real programs: what the model promises is what they meet. Each test is skipped by name where root
//! or TUN devices are missing.
mod leftovers;
mod path;
mod program;
mod traffic;
