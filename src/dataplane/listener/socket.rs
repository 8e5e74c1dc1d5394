//! Binding: one socket a worker on the same address, shared out by the kernel (SO_REUSEPORT).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use crate::base::addr::ListenAddr;

/// Connections that the kernel has accepted and a worker has not taken yet.
const BACKLOG: i32 = 4096;

/// Binds `address` once for every worker. Port 0 is chosen by the kernel, the same for all.
///
/// # Errors
/// What the system says: the port is taken, the address is not ours, the right is missing.
pub fn bind(address: &ListenAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    match address {
        ListenAddr::One(address) => bind_all(*address, workers),
        ListenAddr::All(port) => {
            bind_all(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)), workers).or_else(|error| {
                match error.raw_os_error() {
                    // A host without IPv6: every address of the one family there is.
                    Some(EAFNOSUPPORT | EADDRNOTAVAIL) => {
                        bind_all(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)), workers)
                    }
                    _ => Err(error),
                }
            })
        }
    }
}

const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;

fn bind_all(mut address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // Before the first of ours: without SO_REUSEPORT the address must be free, so that a second Lockgate, which
    // would share it silently, is refused.
    if address.port() != 0 {
        drop(open(address, false)?);
    }
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = open(address, true)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address.set_port(listener.local_addr()?.port());
        sockets.push(listener);
    }
    Ok(sockets)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_a_socket_on_the_same_port() {
        let sockets = bind(&"127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = sockets
            .iter()
            .map(|s| s.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| *port == ports[0] && *port != 0));
    }

    #[test]
    fn an_address_that_is_taken_is_refused() {
        let taken = bind(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = ListenAddr::One(taken[0].local_addr().unwrap());
        assert_eq!(
            bind(&address, 1).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
    }
}
