/*
 * Load for benchmarks/proxy.py: an origin, and clients that reach it through a proxy (or directly).
 *
 *   load origin PORT                                   serves until it is killed
 *   load bulk VIA PORT up|down TUNNELS SECONDS         {"bytes": ..., "seconds": ...}
 *   load setup VIA PORT CONCURRENCY SECONDS            {"tunnels": ..., "seconds": ..., "p50_us": ..., "p99_us": ...}
 *   load hold VIA PORT TUNNELS KIB                     opens tunnels, echoes KIB through each if not 0, prints
 *                                                      {"open": ...}, and holds them until its input ends
 *
 * VIA is the proxy's port, or 0 for a direct connection. PORT is the origin's.
 *
 * The first byte that the origin gets says what it does: 'e' echo, 'd' send for ever, 'u' throw everything away.
 * Bytes are neither made nor looked at (sendfile out of a memory file, recv with MSG_TRUNC), so that one core is enough
 * for both ends. One source and one target address would run out of ports at 15,000 tunnels a second: client k binds to
 * 127.0.3.k and calls the proxy at 127.0.1.k (k = 1 to 32); origins are at 127.0.2.1 to 127.0.2.8.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SOURCES = 32, ORIGINS = 8, BLOCK = 1 << 20, EVENTS = 256, MOST_SAMPLES = 1 << 20 };

static int epoll, memory_file;
static char scratch[BLOCK];

static void die(const char *what) {
    perror(what);
    exit(2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct sockaddr_in address(int net, int number, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl((127u << 24) | ((uint32_t)net << 8) | (uint32_t)number);
    return a;
}

static void set(int fd, int level, int option, int value) {
    if (setsockopt(fd, level, option, &value, sizeof value)) die("setsockopt");
}

static void watch(int operation, int fd, uint32_t events, void *data) {
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(epoll, operation, fd, &event)) die("epoll_ctl");
}

static void begin(void) {
    signal(SIGPIPE, SIG_IGN);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    epoll = epoll_create1(0);
    memory_file = memfd_create("block", 0);
    if (memory_file < 0 || write(memory_file, scratch, BLOCK) != BLOCK) die("memory file");
}

/* One block at most, so that every connection gets its turn; false when the connection is over. */
static bool send_block(int fd, long long *count) {
    off_t offset = 0;
    ssize_t sent = sendfile(fd, memory_file, &offset, BLOCK);
    if (sent < 0) return errno == EAGAIN;
    *count += sent;
    return true;
}

/* Throws away what has come, a block at most; false when the connection is over. */
static bool discard(int fd, long long *count) {
    ssize_t got = recv(fd, NULL, BLOCK, MSG_TRUNC);
    if (got < 0) return errno == EAGAIN;
    *count += got;
    return got > 0;
}

/* ---- the origin ---- */

struct peer {
    int fd;
    char mode;
};

static bool echo(struct peer *peer) {
    ssize_t got = recv(peer->fd, scratch, 65536, 0);
    for (ssize_t done = 0, n; done < got; done += n) {
        n = send(peer->fd, scratch + done, (size_t)(got - done), 0);
        /* What clients send at once fits into the buffers: this waits for a moment at most. */
        if (n < 0 && errno == EAGAIN) n = 0;
        if (n < 0) return false;
    }
    return got > 0 || (got < 0 && errno == EAGAIN);
}

static void serve(struct peer *peer, uint32_t events) {
    long long ignored = 0;
    bool is_alive = !(events & (EPOLLERR | EPOLLHUP));
    if (is_alive && !peer->mode) {
        is_alive = recv(peer->fd, &peer->mode, 1, 0) == 1;
        if (peer->mode == 'd') watch(EPOLL_CTL_MOD, peer->fd, EPOLLOUT | EPOLLRDHUP, peer);
        if (peer->mode == 'e') is_alive = send(peer->fd, "e", 1, 0) == 1;
    } else if (is_alive) {
        if (peer->mode == 'd') is_alive = !(events & EPOLLRDHUP) && send_block(peer->fd, &ignored);
        if (peer->mode == 'u') is_alive = discard(peer->fd, &ignored);
        if (peer->mode == 'e') is_alive = echo(peer);
    }
    if (!is_alive) {
        close(peer->fd);
        free(peer);
    }
}

static void run_origin(int port) {
    struct peer listeners[ORIGINS];
    for (int i = 0; i < ORIGINS; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
        set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        struct sockaddr_in a = address(2, i + 1, port);
        if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) die("listen");
        listeners[i] = (struct peer){fd, 'l'};
        watch(EPOLL_CTL_ADD, fd, EPOLLIN, &listeners[i]);
    }
    puts("ready");
    fflush(stdout);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer->mode != 'l') {
                serve(peer, events[i].events);
                continue;
            }
            int fd;
            while ((fd = accept4(peer->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                struct peer *new = malloc(sizeof *new);
                *new = (struct peer){fd, 0};
                watch(EPOLL_CTL_ADD, fd, EPOLLIN, new);
            }
        }
    }
}

/* ---- clients ---- */

struct client {
    int fd;
    char mode;
    enum { CONNECTING, ASKING, READY } state;
    int got;          /* bytes of the proxy's answer, or of the echo */
    char answer[256]; /* the proxy's, up to the empty line */
    double started;
};

static int via, origin_port, next_number;

/* Opens a connection to the proxy, or straight to the origin; false when the kernel says no. */
static bool start(struct client *client, char mode) {
    int number = next_number++, k = number % SOURCES + 1;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (client->fd < 0) return false;
    client->mode = mode;
    client->state = CONNECTING;
    client->got = 0;
    client->started = now();
    set(client->fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    struct sockaddr_in from = address(3, k, 0);
    struct sockaddr_in to = via ? address(1, k, via) : address(2, number % ORIGINS + 1, origin_port);
    if (bind(client->fd, (struct sockaddr *)&from, sizeof from)) die("bind");
    if (connect(client->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    watch(EPOLL_CTL_ADD, client->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, client);
    return true;
}

/* Brings a client to the point where its tunnel carries bytes; false when that fails. */
static bool advance(struct client *client) {
    if (client->state == CONNECTING) {
        int code = 0;
        socklen_t size = sizeof code;
        getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &code, &size);
        if (code) return false;
        if (via) {
            char request[160];
            int n = snprintf(request, sizeof request, "CONNECT 127.0.2.%d:%d HTTP/1.1\r\nHost: 127.0.2.%d:%d\r\n\r\n",
                             client->fd % ORIGINS + 1, origin_port, client->fd % ORIGINS + 1, origin_port);
            if (send(client->fd, request, (size_t)n, 0) != n) return errno == EAGAIN;
            client->state = ASKING;
        } else {
            client->state = READY;
            return send(client->fd, &client->mode, 1, 0) == 1;
        }
    }
    if (client->state == ASKING) {
        /* Origins here speak only when they have got their byte: nothing can follow the answer. */
        ssize_t got = recv(client->fd, client->answer + client->got, sizeof client->answer - (size_t)client->got, 0);
        if (got < 0) return errno == EAGAIN;
        if (got == 0) return false;
        client->got += (int)got;
        if (client->got < 4 || memcmp(client->answer + client->got - 4, "\r\n\r\n", 4)) return true;
        if (memcmp(client->answer + 9, "200", 3)) return false;
        client->state = READY;
        client->got = 0;
        return send(client->fd, &client->mode, 1, 0) == 1;
    }
    return true;
}

static void run_bulk(char mode, int tunnels, double seconds) {
    struct client *clients = calloc((size_t)tunnels, sizeof *clients);
    for (int i = 0; i < tunnels; i++) start(&clients[i], mode);
    struct epoll_event events[EVENTS];
    long long bytes = 0;
    double from = now(), until = from + seconds, t = from;
    /* The first fifth is for opening tunnels, and for their windows to grow. */
    bool is_counting = false;
    for (until += seconds / 4; (t = now()) < until;) {
        if (!is_counting && t > from + seconds / 4) {
            is_counting = true;
            from = t;
            bytes = 0;
        }
        int count = epoll_wait(epoll, events, EVENTS, 50);
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            if (client->state != READY) {
                if (!advance(client)) die("tunnel");
                if (client->state == READY) watch(EPOLL_CTL_MOD, client->fd, mode == 'd' ? EPOLLIN : EPOLLOUT, client);
            } else if (!(mode == 'd' ? discard(client->fd, &bytes) : send_block(client->fd, &bytes))) die("bulk");
        }
    }
    printf("{\"bytes\": %lld, \"seconds\": %.6f}\n", bytes, t - from);
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void run_setup(int concurrency, double seconds) {
    static float samples[MOST_SAMPLES];
    int count = 0;
    struct client *clients = calloc((size_t)concurrency, sizeof *clients);
    double from = now(), until = from + seconds, t = from;
    for (int i = 0; i < concurrency; i++) start(&clients[i], 'e');
    struct epoll_event events[EVENTS];
    while ((t = now()) < until) {
        int ready = epoll_wait(epoll, events, EVENTS, 50);
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            char byte;
            if (client->state != READY) {
                if (!advance(client)) die("tunnel");
            } else if (recv(client->fd, &byte, 1, 0) == 1) {
                if (count < MOST_SAMPLES) samples[count++] = (float)((now() - client->started) * 1e6);
                close(client->fd);
                start(client, 'e');
            }
        }
    }
    qsort(samples, (size_t)count, sizeof *samples, compare);
    printf("{\"tunnels\": %d, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", count, t - from,
           count ? (double)samples[count / 2] : 0, count ? (double)samples[(int)((double)count * 0.99)] : 0);
}

/* Fetches an echo of some KiB through every tunnel, one after the other. */
static void echo_through(struct client *clients, int count, int kib) {
    for (int i = 0; i < count; i++) {
        if (clients[i].state != READY || !clients[i].got) continue;
        fcntl(clients[i].fd, F_SETFL, 0);
        for (int sent = 0; sent < kib; sent += 16) {
            for (int done = 0, n; done < 16384; done += n)
                if ((n = (int)send(clients[i].fd, scratch, (size_t)(16384 - done), 0)) <= 0) die("echo");
            for (int done = 0, n; done < 16384; done += n)
                if ((n = (int)recv(clients[i].fd, scratch, (size_t)(16384 - done), 0)) <= 0) die("echo");
        }
    }
}

static void run_hold(int tunnels, int kib) {
    struct client *clients = calloc((size_t)tunnels, sizeof *clients);
    struct epoll_event events[EVENTS];
    int started = 0, open = 0, failed = 0;
    double last = now();
    /* A few at a time; it ends when all are open, or when nothing more opens for two seconds. */
    while (open + failed < tunnels && now() - last < 2) {
        while (started < tunnels && started - open - failed < 16 && start(&clients[started], 'e')) started++;
        int ready = epoll_wait(epoll, events, EVENTS, 100);
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            char byte;
            if (client->fd < 0 || (client->state == READY && client->got)) continue;
            bool is_alive = client->state == READY || advance(client);
            if (!is_alive) {
                close(client->fd);
                client->fd = -1;
                failed++;
            } else if (client->state == READY && recv(client->fd, &byte, 1, 0) == 1) {
                client->got = 1;
                open++;
                last = now();
            }
        }
        if (failed > 50) break;
    }
    if (kib) echo_through(clients, started, kib);
    printf("{\"open\": %d}\n", open);
    fflush(stdout);
    while (getchar() != EOF) {}
}

int main(int count, char **arguments) {
    begin();
    const char *role = count > 1 ? arguments[1] : "";
    if (count == 3 && !strcmp(role, "origin")) {
        run_origin(atoi(arguments[2]));
        return 0;
    }
    if (count < 4) {
        fputs("see the top of proxy_load.c\n", stderr);
        return 2;
    }
    via = atoi(arguments[2]);
    origin_port = atoi(arguments[3]);
    if (count == 7 && !strcmp(role, "bulk")) run_bulk(arguments[4][0], atoi(arguments[5]), atof(arguments[6]));
    else if (count == 6 && !strcmp(role, "setup")) run_setup(atoi(arguments[4]), atof(arguments[5]));
    else if (count == 6 && !strcmp(role, "hold")) run_hold(atoi(arguments[4]), atoi(arguments[5]));
    else return 2;
    return 0;
}
