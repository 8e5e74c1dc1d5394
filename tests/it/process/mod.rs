//! The program as a process among others: upgrades, the control socket, systemd, and what may go wrong around it.

mod confined;
mod control;
mod faults;
mod systemd;
mod upgrade;
