/*
 * The floor beneath any fan-out: one thread, epoll, OpenSSL; mutual TLS to every address at once, a 64-byte echo each,
 * then more echoes over the warm connections.
 *
 *   tls_floor KEY CHAIN CA ADDRESSES ROUNDS
 *
 * The far end is fast_agents in its echo mode. Prints a JSON object: cold_s, warm_s (a list), cpu_cold_s.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ECHO_BYTES 64
#define MOST 20000

typedef struct {
    SSL *ssl;
    int is_open;
    size_t echoed;
} Peer;

static Peer peers[MOST];
static const unsigned char payload[ECHO_BYTES];

static void die(const char *what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double now_s(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int is_waiting(Peer *peer, int result) {
    int error = SSL_get_error(peer->ssl, result);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
}

/* 1 when this event completed the peer's echo. */
static int go_on(Peer *peer) {
    unsigned char bytes[ECHO_BYTES];
    int got;
    if (!peer->is_open) {
        int result = SSL_do_handshake(peer->ssl);
        if (result <= 0) {
            if (!is_waiting(peer, result)) die("handshake");
            return 0;
        }
        peer->is_open = 1;
        if (SSL_write(peer->ssl, payload, ECHO_BYTES) != ECHO_BYTES) die("write");
    }
    while (peer->echoed < ECHO_BYTES && (got = SSL_read(peer->ssl, bytes, sizeof bytes)) != 0) {
        if (got < 0) {
            if (!is_waiting(peer, got)) die("read");
            return 0;
        }
        if ((peer->echoed += got) == ECHO_BYTES) return 1;
    }
    return 0;
}

static void wait_for(int loop, int count) {
    struct epoll_event events[256];
    while (count > 0) {
        int ready = epoll_wait(loop, events, 256, 30000);
        if (ready <= 0) die("no answer within 30 s");
        for (int i = 0; i < ready; i++) count -= go_on(events[i].data.ptr);
    }
}

static void dial(int loop, SSL_CTX *context, Peer *peer, const char *address, int port) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = peer};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    inet_pton(AF_INET, address, &place.sin_addr);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connect(fd, (struct sockaddr *)&place, sizeof place);
    peer->ssl = SSL_new(context);
    SSL_set_fd(peer->ssl, fd);
    SSL_set_connect_state(peer->ssl);
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv) {
    struct rlimit limit;
    char address[64];
    int port, count = 0, loop = epoll_create1(EPOLL_CLOEXEC);
    if (argc != 6) return fprintf(stderr, "usage: KEY CHAIN CA ADDRESSES ROUNDS\n"), 2;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    if (SSL_CTX_load_verify_locations(context, argv[3], NULL) != 1) die(argv[3]);
    if (SSL_CTX_use_certificate_chain_file(context, argv[2]) != 1) die(argv[2]);
    if (SSL_CTX_use_PrivateKey_file(context, argv[1], SSL_FILETYPE_PEM) != 1) die(argv[1]);
    FILE *lines = fopen(argv[4], "r");
    if (!lines) die(argv[4]);

    double began = now_s(CLOCK_MONOTONIC), cpu = now_s(CLOCK_PROCESS_CPUTIME_ID);
    while (count < MOST && fscanf(lines, "%63s %d", address, &port) == 2) dial(loop, context, &peers[count++], address, port);
    wait_for(loop, count);
    printf("{\"cold_s\": %.6f, \"cpu_cold_s\": %.6f, \"warm_s\": [", now_s(CLOCK_MONOTONIC) - began,
           now_s(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    for (int round = 0; round < atoi(argv[5]); round++) {
        began = now_s(CLOCK_MONOTONIC);
        for (int i = 0; i < count; i++) {
            peers[i].echoed = 0;
            if (SSL_write(peers[i].ssl, payload, ECHO_BYTES) != ECHO_BYTES) die("write");
        }
        wait_for(loop, count);
        printf("%s%.6f", round ? ", " : "", now_s(CLOCK_MONOTONIC) - began);
    }
    puts("]}");
    return 0;
}
