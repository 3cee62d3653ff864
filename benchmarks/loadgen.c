/* Closed-loop HTTP/1.1 load: C connections, each sends its next request when the last answer is whole.
 *
 * usage: loadgen HOST PORT CONNECTIONS SECONDS REQUESTS [FIRST]
 * REQUESTS is a file of raw requests, each behind a little-endian u32 length; they are sent in order from number FIRST
 * on, and over again.
 * Prints one JSON object; latencies in milliseconds, from the first byte sent to the last byte received.
 *
 * One thread and a few system calls a request, so that the load costs the two servers that are compared the same and
 * little of the machine they share with it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1024, FIRST_BUFFER = 1 << 16 };

struct request { const char *data; size_t size; };
struct connection {
    int fd;
    const struct request *request;
    size_t sent;      /* bytes of the request sent */
    char *buffer;
    size_t capacity, received;
    long head;        /* bytes of the answer's head, 0 until it is whole */
    long body;        /* its content length, -1 for chunked */
    int status, reusable;
    double started;
};

static struct request *requests;
static size_t request_count, next_request;
static struct sockaddr_in address;
static int poller;
static double *latencies;
static size_t latency_count, latency_capacity;
static long refused, broken, reconnects;
static int first_bad_status;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) { perror(what); exit(1); }

static void load(const char *path) {
    struct stat info;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &info) < 0) die(path);
    char *data = malloc(info.st_size);
    for (off_t at = 0; at < info.st_size;) {
        ssize_t n = read(fd, data + at, info.st_size - at);
        if (n <= 0) die(path);
        at += n;
    }
    close(fd);
    for (off_t at = 0; at + 4 <= info.st_size;) {
        uint32_t size;
        memcpy(&size, data + at, 4);
        if (request_count % 1024 == 0) requests = realloc(requests, (request_count + 1024) * sizeof *requests);
        requests[request_count++] = (struct request){data + at + 4, size};
        at += 4 + (off_t)size;
    }
    if (!request_count) { fprintf(stderr, "%s: no requests\n", path); exit(1); }
}

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, operation, c->fd, &event) < 0) die("epoll_ctl");
}

static void push(struct connection *c) {
    while (c->sent < c->request->size) {
        ssize_t n = send(c->fd, c->request->data + c->sent, c->request->size - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return; /* any other error shows when reading */
        }
        c->sent += n;
    }
}

static void begin(struct connection *c) {
    c->request = &requests[next_request++ % request_count];
    c->sent = c->received = 0;
    c->head = c->body = 0;
    c->started = now();
    push(c);
}

static void connect_anew(struct connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    begin(c);
}

static int read_head(struct connection *c) {
    char *end = memmem(c->buffer, c->received, "\r\n\r\n", 4);
    if (!end) return 0;
    c->head = end - c->buffer + 4;
    c->status = c->received > 12 ? atoi(c->buffer + 9) : 0;
    c->reusable = 1;
    c->body = 0;
    for (char *line = memchr(c->buffer, '\n', c->head); line && line < end; line = memchr(line, '\n', end - line)) {
        line++;
        if (!strncasecmp(line, "content-length:", 15)) c->body = atol(line + 15);
        if (!strncasecmp(line, "transfer-encoding: chunked", 26)) c->body = -1;
        if (!strncasecmp(line, "connection: close", 17)) c->reusable = 0;
    }
    return 1;
}

static int whole(struct connection *c) {
    if (!c->head && !read_head(c)) return 0;
    if (c->body >= 0) return c->received >= (size_t)(c->head + c->body);
    return c->received >= (size_t)c->head + 5 && !memcmp(c->buffer + c->received - 5, "0\r\n\r\n", 5);
}

static void finish(struct connection *c) {
    if (latency_count == latency_capacity) {
        latency_capacity = latency_capacity ? 2 * latency_capacity : 1 << 16;
        latencies = realloc(latencies, latency_capacity * sizeof *latencies);
    }
    if (c->status == 200) {
        latencies[latency_count++] = now() - c->started;
    } else {
        refused++;
        if (!first_bad_status) {
            first_bad_status = c->status;
            fwrite(c->buffer, 1, c->received < 2000 ? c->received : 2000, stderr);
            fputc('\n', stderr);
        }
    }
}

static void pull(struct connection *c) {
    for (;;) {
        if (c->received == c->capacity) {
            c->capacity = c->capacity ? 2 * c->capacity : FIRST_BUFFER;
            c->buffer = realloc(c->buffer, c->capacity);
        }
        ssize_t n = recv(c->fd, c->buffer + c->received, c->capacity - c->received, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            broken++;
            break;
        }
        c->received += n;
        if (whole(c)) {
            finish(c);
            if (!c->reusable) break;
            begin(c);
            return;
        }
    }
    close(c->fd);
    reconnects++;
    connect_anew(c);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at(double share) {
    if (!latency_count) return 0;
    size_t index = (size_t)(share * latency_count);
    return 1e3 * latencies[index < latency_count ? index : latency_count - 1];
}

int main(int count, char **words) {
    if (count != 6 && count != 7) { fprintf(stderr, "usage: loadgen HOST PORT CONNECTIONS SECONDS REQUESTS [FIRST]\n"); return 2; }
    int connections = atoi(words[3]);
    double seconds = atof(words[4]);
    if (connections < 1 || connections > MAX_CONNECTIONS) { fprintf(stderr, "1 to %d connections\n", MAX_CONNECTIONS); return 2; }
    load(words[5]);
    if (count == 7) next_request = strtoul(words[6], NULL, 10);
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(words[2]));
    if (inet_pton(AF_INET, words[1], &address.sin_addr) != 1) { fprintf(stderr, "not an IPv4 address\n"); return 2; }
    poller = epoll_create1(0);
    static struct connection all[MAX_CONNECTIONS];
    double started = now(), end = started + seconds;
    for (int i = 0; i < connections; i++) connect_anew(&all[i]);
    struct epoll_event events[MAX_CONNECTIONS];
    double clock;
    while ((clock = now()) < end) {
        int ready = epoll_wait(poller, events, MAX_CONNECTIONS, (int)((end - clock) * 1e3) + 1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                watch(c, EPOLL_CTL_MOD, EPOLLIN);
                push(c);
            }
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) pull(c);
        }
        if (reconnects > 100000) break;
    }
    double took = now() - started;
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    double sum = 0;
    for (size_t i = 0; i < latency_count; i++) sum += latencies[i];
    printf("{\"rps\": %.1f, \"requests\": %zu, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"mean\": %.3f, "
           "\"refused\": %ld, \"broken\": %ld, \"status\": %d, \"next\": %zu}\n",
           latency_count / took, latency_count, at(.5), at(.9), at(.99),
           latency_count ? 1e3 * sum / latency_count : 0, refused, broken, first_bad_status, next_request);
    return 0;
}
