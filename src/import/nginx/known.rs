//! What is known of nginx's directives that are not carried over: why, and how much it matters.

use super::super::Weight;

/// What becomes of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is carried over, or told where that is tried.
    Handled,
    /// It is told.
    Told(Weight, &'static str),
    /// It keeps requests out, and there is no counterpart: its route is closed.
    Guard(&'static str),
}

/// What becomes of the directive of this name.
pub(super) fn fate(name: &str) -> Fate {
    use Fate::{Guard, Handled, Told};
    use Weight::{Differs, Missing, Unneeded};
    match name {
        "http"
        | "server"
        | "location"
        | "upstream"
        | "events"
        | "listen"
        | "server_name"
        | "return"
        | "proxy_pass"
        | "grpc_pass"
        | "ssl_certificate"
        | "ssl_certificate_key"
        | "ssl_client_certificate"
        | "ssl_verify_client"
        | "proxy_set_header"
        | "grpc_set_header"
        | "add_header"
        | "proxy_hide_header"
        | "grpc_hide_header"
        | "proxy_read_timeout"
        | "grpc_read_timeout"
        | "proxy_connect_timeout"
        | "grpc_connect_timeout"
        | "worker_processes"
        | "access_log"
        | "keepalive_timeout"
        | "set_real_ip_from"
        | "resolver"
        | "try_files"
        | "rewrite"
        | "if"
        | "proxy_ssl_verify"
        | "proxy_ssl_trusted_certificate"
        | "proxy_ssl_name"
        | "proxy_ssl_certificate"
        | "proxy_ssl_certificate_key"
        | "root"
        | "alias"
        | "proxy_next_upstream"
        | "health_check"
        | "limit_except" => Handled,

        "auth_basic" | "auth_request" | "auth_jwt" | "auth_digest" => {
            Guard("Lockgate asks nobody for a password or token; let the app do it")
        }
        "allow" | "deny" => {
            Guard("Lockgate has no rules on addresses; a firewall does this before it")
        }
        "secure_link" | "secure_link_md5" => {
            Guard("signed links are not checked; let the app do it")
        }
        "valid_referers" => Guard("referers are not checked"),
        "internal" => Guard("the route is not for clients"),
        "ssl_crl" => {
            Guard("the list of revoked certificates is not carried over: see `client_auth`")
        }

        "auth_basic_user_file" | "satisfy" | "auth_request_set" => Told(
            Missing,
            "it belongs to an access rule that was not imported",
        ),
        "limit_req" | "limit_req_zone" | "limit_conn" | "limit_conn_zone" | "limit_rate"
        | "limit_rate_after" | "limit_req_status" | "limit_conn_status" => Told(
            Missing,
            "limits are set by `limits`; see docs/manual/limits.md",
        ),
        "client_max_body_size" => Told(
            Missing,
            "bodies are streamed and have no limit here: let the app refuse what is too large",
        ),
        "fastcgi_pass" | "uwsgi_pass" | "scgi_pass" | "memcached_pass" => Told(
            Missing,
            "Lockgate speaks HTTP with its endpoints: put a server for this protocol between",
        ),
        "index"
        | "autoindex"
        | "error_page"
        | "expires"
        | "etag"
        | "sendfile"
        | "directio"
        | "open_file_cache"
        | "open_file_cache_valid"
        | "open_file_cache_min_uses"
        | "open_file_cache_errors"
        | "default_type"
        | "types"
        | "charset"
        | "disable_symlinks"
        | "aio"
        | "output_buffers"
        | "if_modified_since"
        | "log_not_found"
        | "recursive_error_pages"
        | "proxy_intercept_errors" => Told(
            Missing,
            "Lockgate serves no files and no pages of its own beyond `respond`",
        ),
        "proxy_cache"
        | "proxy_cache_path"
        | "proxy_cache_valid"
        | "proxy_cache_key"
        | "proxy_cache_bypass"
        | "proxy_no_cache"
        | "proxy_cache_use_stale"
        | "proxy_cache_lock"
        | "proxy_cache_methods"
        | "proxy_cache_min_uses"
        | "proxy_cache_background_update"
        | "proxy_cache_revalidate"
        | "proxy_ignore_headers"
        | "proxy_temp_path" => Told(Missing, "Lockgate keeps no answers"),
        "gzip" | "gzip_types" | "gzip_proxied" | "gzip_comp_level" | "gzip_min_length"
        | "gzip_vary" | "gzip_disable" | "gzip_static" | "gzip_buffers" | "gzip_http_version"
        | "gunzip" | "brotli" | "brotli_types" | "brotli_comp_level" | "brotli_static" => Told(
            Missing,
            "answers are passed on as they are: let the app compress them",
        ),
        "sub_filter"
        | "sub_filter_once"
        | "sub_filter_types"
        | "proxy_redirect"
        | "proxy_cookie_path"
        | "proxy_cookie_domain"
        | "proxy_cookie_flags"
        | "add_trailer"
        | "proxy_set_body"
        | "proxy_method"
        | "proxy_pass_header" => Told(Missing, "answers and bodies are not rewritten"),
        "map" | "geo" | "set" | "split_clients" | "perl_set" | "js_set" | "js_import"
        | "js_content" => Told(
            Missing,
            "there are no variables: a condition on a header, parameter or method is a route of its own",
        ),
        "mirror" | "mirror_request_body" => Told(
            Missing,
            "copies are made by `mirror` of a route: docs/manual/traffic.md",
        ),
        "stream" | "mail" => Told(Missing, "Lockgate proxies HTTP only"),
        "load_module" => Told(Missing, "there are no modules"),
        "log_format" => Told(
            Missing,
            "the access log is JSON, or the combined format: docs/manual/logs.md",
        ),
        "proxy_bind" => Told(
            Missing,
            "endpoints are dialled from the address that the system picks",
        ),
        "real_ip_header" | "real_ip_recursive" => Told(
            Differs,
            "`X-Forwarded-For` and `Forwarded` of `trusted_proxies` are read, from the right",
        ),
        "proxy_protocol" => Told(Missing, "the PROXY protocol is not read"),
        "proxy_next_upstream_tries" | "proxy_next_upstream_timeout" => {
            Told(Differs, "see `retry`: two attempts more, within a budget")
        }
        "proxy_send_timeout"
        | "grpc_send_timeout"
        | "client_body_timeout"
        | "client_header_timeout"
        | "send_timeout"
        | "lingering_timeout"
        | "lingering_time"
        | "lingering_close"
        | "reset_timedout_connection"
        | "resolver_timeout"
        | "keepalive_requests"
        | "keepalive_time"
        | "http2_max_concurrent_streams"
        | "http2_idle_timeout"
        | "http2_recv_timeout"
        | "large_client_header_buffers"
        | "client_header_buffer_size" => Told(
            Differs,
            "Lockgate's own value is used: docs/limits.md has them all, with their keys",
        ),
        "ssl_protocols"
        | "ssl_ciphers"
        | "ssl_prefer_server_ciphers"
        | "ssl_ecdh_curve"
        | "ssl_dhparam"
        | "ssl_conf_command" => Told(Differs, "always TLS 1.3, and 1.2 with ECDHE and AEAD"),
        "ssl_stapling" | "ssl_stapling_verify" | "ssl_trusted_certificate" => {
            Told(Missing, "answers of OCSP are not stapled")
        }
        "ssl_verify_depth" => Told(Differs, "chains are verified whole"),
        "ssl_early_data" => Told(Differs, "early data is never taken: it can be replayed"),
        "proxy_ssl_protocols" | "proxy_ssl_ciphers" | "proxy_ssl_verify_depth" => {
            Told(Differs, "always TLS 1.3, and 1.2 with ECDHE and AEAD")
        }
        "user" => Told(
            Missing,
            "the service manager says who runs Lockgate: packaging/lockgate.service",
        ),
        "pid" => Told(Differs, "`lockgate run --pid-file`"),
        "error_log" => Told(
            Differs,
            "what happens to the process goes to standard error",
        ),
        "daemon"
        | "master_process"
        | "worker_connections"
        | "worker_rlimit_nofile"
        | "multi_accept"
        | "use"
        | "worker_cpu_affinity"
        | "worker_priority"
        | "accept_mutex"
        | "worker_shutdown_timeout"
        | "thread_pool"
        | "pcre_jit"
        | "timer_resolution"
        | "lock_file"
        | "worker_aio_requests"
        | "env"
        | "debug_connection" => Told(Unneeded, "it settles itself"),
        "ssl"
        | "http2"
        | "ssl_session_cache"
        | "ssl_session_timeout"
        | "ssl_session_tickets"
        | "ssl_session_ticket_key"
        | "ssl_buffer_size"
        | "proxy_ssl_session_reuse"
        | "proxy_ssl_server_name"
        | "http2_push_preload"
        | "http3"
        | "quic_retry"
        | "http3_hq"
        | "quic_gso"
        | "ssl_reject_handshake" => Told(
            Unneeded,
            "HTTP/2 and session tickets are on, HTTP/3 is not there",
        ),
        "proxy_http_version"
        | "proxy_buffering"
        | "proxy_buffers"
        | "proxy_buffer_size"
        | "proxy_busy_buffers_size"
        | "proxy_max_temp_file_size"
        | "proxy_request_buffering"
        | "client_body_buffer_size"
        | "client_body_temp_path"
        | "proxy_temp_file_write_size"
        | "proxy_socket_keepalive"
        | "tcp_nopush"
        | "tcp_nodelay"
        | "grpc_buffer_size"
        | "client_body_in_file_only"
        | "proxy_force_ranges"
        | "proxy_headers_hash_max_size"
        | "proxy_headers_hash_bucket_size"
        | "server_names_hash_bucket_size"
        | "server_names_hash_max_size"
        | "types_hash_max_size"
        | "types_hash_bucket_size"
        | "variables_hash_max_size"
        | "variables_hash_bucket_size"
        | "map_hash_bucket_size"
        | "map_hash_max_size"
        | "server_tokens"
        | "underscores_in_headers"
        | "ignore_invalid_headers"
        | "merge_slashes"
        | "server_name_in_redirect"
        | "port_in_redirect"
        | "absolute_redirect"
        | "chunked_transfer_encoding"
        | "msie_padding"
        | "request_pool_size"
        | "connection_pool_size"
        | "proxy_ignore_client_abort"
        | "uninitialized_variable_warn"
        | "rewrite_log"
        | "postpone_output"
        | "proxy_store"
        | "recursive" => Told(Unneeded, "bodies stream, and connections are kept"),
        _ => Told(Missing, "Lockgate has nothing like it"),
    }
}
