/*
 * Stand-ins for agents, fast enough that the controller is what a bench measures: N listeners in one process, TLS 1.3
 * with client certificates demanded, and either Host.Session over HTTP/2, whatever path was called, or a byte echo.
 *
 *   fast_agents KEY CA CHAINS ADDRESSES grpc|echo MUTE_EVERY call|tls
 *
 * CHAINS is a file of PEM leaf certificates, one for each line of ADDRESSES ("127.1.2.3 7700"). Every MUTE_EVERY-th
 * agent (0: none) accepts and then never answers: `call` keeps HTTP/2 alive and answers no call, `tls` not even the
 * handshake. Prints "ready" when all listen; ends when its standard input ends.
 *
 * It reads no header: a frame of whole Asks, as a controller sends it, is answered with a frame of as many Answers
 * {number, PingReply {received_at, sent_at}}, and a stream that the controller ends with trailers. HPACK: RFC 7541;
 * frames: RFC 9113.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MUTE_NONE, MUTE_CALL, MUTE_TLS };
enum { DATA = 0, HEADERS = 1, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8, CONTINUATION = 9 };
enum { FLAG_END_STREAM = 1, FLAG_ACK = 1, FLAG_END_HEADERS = 4 };

#define WINDOW_STEP 32768 /* half of the default window: give it back before it runs out */

typedef struct {
    unsigned char *at;
    size_t len, room;
} Buffer;

typedef struct {
    int fd;
    X509 *leaf; /* set for a listener */
    int mute;
    SSL *ssl;
    int is_open, has_preface;
    Buffer in, out;
    size_t consumed;
    uint32_t session; /* the stream whose headers were sent */
} Peer;

static SSL_CTX *context;
static int loop, is_echo;

static void die(const char *what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void put(Buffer *buffer, const void *bytes, size_t len) {
    if (buffer->len + len > buffer->room) {
        buffer->room = (buffer->len + len) * 2;
        buffer->at = realloc(buffer->at, buffer->room);
        if (!buffer->at) die("realloc");
    }
    memcpy(buffer->at + buffer->len, bytes, len);
    buffer->len += len;
}

static void drop(Buffer *buffer, size_t len) {
    buffer->len -= len;
    memmove(buffer->at, buffer->at + len, buffer->len);
}

static void frame(Buffer *out, int type, int flags, uint32_t stream, const void *payload, size_t len) {
    unsigned char head[9] = {len >> 16, len >> 8, len, type, flags, stream >> 24, stream >> 16, stream >> 8, stream};
    put(out, head, sizeof head);
    put(out, payload, len);
}

static size_t varint(unsigned char *at, uint64_t value) {
    size_t len = 0;
    for (; value > 127; value >>= 7) at[len++] = value | 128;
    at[len++] = value;
    return len;
}

static size_t reply(unsigned char *to, const unsigned char *number, size_t digits) {
    unsigned char stamp[24], ping[64];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t len = 0, size = 0, at = 5; /* after the five bytes of gRPC's own frame */
    stamp[len++] = 0x08;
    len += varint(stamp + len, now.tv_sec);
    stamp[len++] = 0x10;
    len += varint(stamp + len, now.tv_nsec);
    for (int field = 1; field <= 2; field++) {
        ping[size++] = field << 3 | 2;
        ping[size++] = len;
        memcpy(ping + size, stamp, len);
        size += len;
    }
    to[at++] = 1 << 3; /* Answer.number */
    memcpy(to + at, number, digits);
    at += digits;
    to[at++] = 2 << 3 | 2; /* Answer.ping */
    to[at++] = size;
    memcpy(to + at, ping, size);
    at += size;
    memset(to, 0, 4);
    to[4] = at - 5;
    return at;
}

static void answer(Peer *peer, uint32_t stream, const unsigned char *payload, size_t len) {
    /* :status 200 is index 8 of the static table; content-type is name 31, value as it is; no dynamic table. */
    static const unsigned char headers[] = "\x88\x0f\x10\x10" "application/grpc";
    unsigned char bytes[128];
    size_t at = 0, digits;
    if (peer->session != stream) frame(&peer->out, HEADERS, FLAG_END_HEADERS, stream, headers, sizeof headers - 1);
    peer->session = stream;
    while (len - at >= 7) { /* gRPC's five, then Ask.number: a tag and at most ten bytes, the last below 128 */
        size_t size = payload[at + 1] << 24 | payload[at + 2] << 16 | payload[at + 3] << 8 | payload[at + 4];
        for (digits = 1; digits < 10 && payload[at + 5 + digits] > 127; digits++) {}
        frame(&peer->out, DATA, 0, stream, bytes, reply(bytes, payload + at + 6, digits));
        at += 5 + size;
        if (at > len) break;
    }
}

static void give_back(Peer *peer, uint32_t stream, size_t len) {
    uint32_t step;
    if ((peer->consumed += len) < WINDOW_STEP) return;
    step = htonl(peer->consumed);
    frame(&peer->out, WINDOW_UPDATE, 0, 0, &step, 4);
    frame(&peer->out, WINDOW_UPDATE, 0, stream, &step, 4);
    peer->consumed = 0;
}

static void take(Peer *peer, int type, int flags, uint32_t stream, const unsigned char *payload, size_t len) {
    static const unsigned char trailers[] = "\x00\x0bgrpc-status\x01" "0";
    if (type == SETTINGS && !(flags & FLAG_ACK)) frame(&peer->out, SETTINGS, FLAG_ACK, 0, "", 0);
    if (type == PING && !(flags & FLAG_ACK)) frame(&peer->out, PING, FLAG_ACK, 0, payload, len);
    if (type != DATA) return;
    give_back(peer, stream, len);
    if (peer->mute == MUTE_CALL) return;
    if (len) answer(peer, stream, payload, len);
    if (flags & FLAG_END_STREAM)
        frame(&peer->out, HEADERS, FLAG_END_HEADERS | FLAG_END_STREAM, stream, trailers, sizeof trailers - 1);
}

static int understand(Peer *peer) {
    Buffer *in = &peer->in;
    size_t at = 0;
    if (is_echo) {
        if (!peer->mute) put(&peer->out, in->at, in->len);
        drop(in, in->len);
        return 0;
    }
    if (!peer->has_preface) {
        if (in->len < 24) return 0;
        if (memcmp(in->at, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24)) return -1;
        peer->has_preface = 1;
        at = 24;
    }
    while (in->len - at >= 9) {
        unsigned char *head = in->at + at;
        size_t len = head[0] << 16 | head[1] << 8 | head[2];
        uint32_t stream = (head[5] & 127u) << 24 | head[6] << 16 | head[7] << 8 | head[8];
        if (in->len - at < 9 + len) break;
        take(peer, head[3], head[4], stream, head + 9, len);
        at += 9 + len;
    }
    drop(in, at);
    return 0;
}

static void end(Peer *peer) {
    SSL_free(peer->ssl);
    close(peer->fd);
    free(peer->in.at);
    free(peer->out.at);
    free(peer);
}

static int waits(Peer *peer, int result) {
    int error = SSL_get_error(peer->ssl, result);
    ERR_clear_error();
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

static int serve(Peer *peer) {
    unsigned char bytes[16384];
    int got;
    if (peer->mute == MUTE_TLS) return 0;
    if (!peer->is_open) {
        int result = SSL_do_handshake(peer->ssl);
        if (result <= 0) return waits(peer, result) ? 0 : -1;
        peer->is_open = 1;
        if (!is_echo) frame(&peer->out, SETTINGS, 0, 0, "", 0);
    }
    while ((got = SSL_read(peer->ssl, bytes, sizeof bytes)) > 0) put(&peer->in, bytes, got);
    if (!waits(peer, got)) return -1;
    if (understand(peer)) return -1;
    while (peer->out.len) {
        int sent = SSL_write(peer->ssl, peer->out.at, peer->out.len);
        if (sent <= 0) return waits(peer, sent) ? 0 : -1;
        drop(&peer->out, sent);
    }
    return 0;
}

static void watch(Peer *peer, int edge) {
    struct epoll_event event = {.events = edge ? EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET : EPOLLIN, .data.ptr = peer};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, peer->fd, &event)) die("epoll_ctl");
}

static void welcome(Peer *listener) {
    int fd, on = 1;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        Peer *peer = calloc(1, sizeof *peer);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        peer->fd = fd;
        peer->mute = listener->mute;
        peer->ssl = SSL_new(context);
        SSL_use_certificate(peer->ssl, listener->leaf);
        SSL_set_fd(peer->ssl, fd);
        SSL_set_accept_state(peer->ssl);
        watch(peer, 1);
    }
}

static int choose_h2(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned int in_len,
                     void *unused) {
    (void)ssl, (void)unused;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_len, (const unsigned char *)"\x02h2", 3, in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static void listen_at(const char *address, int port, X509 *leaf, int mute) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(port)};
    Peer *listener = calloc(1, sizeof *listener);
    int on = 1;
    inet_pton(AF_INET, address, &place.sin_addr);
    listener->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    listener->leaf = leaf;
    listener->mute = mute;
    setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener->fd, (struct sockaddr *)&place, sizeof place) || listen(listener->fd, 128)) die(address);
    watch(listener, 0);
}

static void open_all(const char *chains, const char *addresses, int every, int how) {
    FILE *leaves = fopen(chains, "r"), *lines = fopen(addresses, "r");
    char address[64];
    int port, number = 0;
    if (!leaves || !lines) die("chains or addresses");
    while (fscanf(lines, "%63s %d", address, &port) == 2) {
        X509 *leaf = PEM_read_X509(leaves, NULL, NULL, NULL);
        if (!leaf) die("fewer certificates than addresses");
        number++;
        listen_at(address, port, leaf, every && number % every == 0 ? how : MUTE_NONE);
    }
    fclose(leaves);
    fclose(lines);
}

static void prepare(const char *key, const char *ca) {
    context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_session_id_context(context, (const unsigned char *)"bench", 5);
    if (SSL_CTX_load_verify_locations(context, ca, NULL) != 1) die(ca);
    if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1) die(key);
    if (!is_echo) SSL_CTX_set_alpn_select_cb(context, choose_h2, NULL);
}

int main(int argc, char **argv) {
    struct rlimit limit;
    struct epoll_event events[256];
    Peer standard_input = {.fd = 0};
    if (argc != 8) return fprintf(stderr, "usage: KEY CA CHAINS ADDRESSES grpc|echo MUTE_EVERY call|tls\n"), 2;
    signal(SIGPIPE, SIG_IGN); /* a client that hangs up ends its connection, not this program */
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    loop = epoll_create1(EPOLL_CLOEXEC);
    is_echo = !strcmp(argv[5], "echo");
    prepare(argv[1], argv[2]);
    open_all(argv[3], argv[4], atoi(argv[6]), strcmp(argv[7], "tls") ? MUTE_CALL : MUTE_TLS);
    watch(&standard_input, 0);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(loop, events, 256, -1);
        for (int i = 0; i < count; i++) {
            Peer *peer = events[i].data.ptr;
            if (peer == &standard_input) return 0;
            if (peer->leaf) welcome(peer);
            else if (serve(peer) || events[i].events & EPOLLRDHUP) end(peer);
        }
        if (count < 0 && errno != EINTR) die("epoll_wait");
    }
}
