/* HTTP/1.1 load. Closed loop: C connections, each sends its next request when the last answer is whole. With a RATE open
 * loop: so many requests a second are due whatever becomes of them, and each takes a free connection.
 *
 * usage: loadgen HOST PORT CONNECTIONS SECONDS REQUESTS [FIRST [RATE]]
 * REQUESTS is a file of raw requests, each behind a little-endian u32: its length in the lower 24 bits, its class, 0 to 3,
 * above them; they are sent in order from number FIRST on, and over again.
 * Prints one JSON object; latencies in milliseconds up to the last byte received: of an answer from the first byte sent, or
 * in an open loop from the moment it was due; of a refusal from the first byte sent. What is under way when the time is over
 * is waited for and counted apart ("late"); what found no free connection within a second is not sent ("unsent").
 *
 * One thread and a few system calls a request, so that the load costs the two servers that are compared the same and
 * little of the machine they share with it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
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

enum { MAX_CONNECTIONS = 1024, FIRST_BUFFER = 1 << 16, CLASSES = 4, STATUSES = 600 };
static const double DRAIN_SECONDS = 15, PATIENCE_SECONDS = 1;

struct request { const char *data; size_t size; int class; };
struct series { double *values; size_t count, capacity; };
struct connection {
    int fd;
    const struct request *request;
    size_t sent;      /* bytes of the request sent */
    char *buffer;
    size_t capacity, received;
    long head;        /* bytes of the answer's head, 0 until it is whole */
    long body;        /* its content length, -1 for chunked */
    int status, reusable;
    double started, due;
};

static struct request *requests;
static size_t request_count, next_request;
static struct sockaddr_in address;
static int poller;
static struct series answered, refusals, by_class[CLASSES];
static long broken, reconnects, late, unsent, statuses[STATUSES];
static int first_bad_status, over;
static double rate, begun;
static unsigned long arrivals;                        /* of an open loop: how many were due */
static struct connection *idle[MAX_CONNECTIONS];
static int idle_count;

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
        requests[request_count++] = (struct request){data + at + 4, size & 0xffffff, (size >> 24) % CLASSES};
        at += 4 + (off_t)(size & 0xffffff);
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

static void begin(struct connection *c, double due) {
    c->request = &requests[next_request++ % request_count];
    c->sent = c->received = 0;
    c->head = c->body = 0;
    c->started = now();
    c->due = due ? due : c->started;
    push(c);
}

/* The connection is free: in a closed loop it sends the next request at once. */
static void rest(struct connection *c) {
    c->request = NULL;
    if (!over && !rate) begin(c, 0);
    else idle[idle_count++] = c;
}

/* Send what is due; returns the seconds until the next is. */
static double send_due(void) {
    for (;;) {
        double clock = now(), due = begun + arrivals / rate;
        if (due > clock) return due - clock;
        if (idle_count) begin(idle[--idle_count], due);
        else if (clock - due < PATIENCE_SECONDS) return 1e-3;
        else unsent++;
        arrivals++;
    }
}

static void connect_anew(struct connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
    rest(c);
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

static void note(struct series *s, double value) {
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 1 << 14;
        s->values = realloc(s->values, s->capacity * sizeof *s->values);
    }
    s->values[s->count++] = value;
}

static void finish(struct connection *c) {
    double clock = now();
    if (c->status == 200 && over) {
        late++;
    } else if (c->status == 200) {
        note(&answered, clock - c->due);
        note(&by_class[c->request->class], clock - c->due);
    } else {
        note(&refusals, clock - c->started);
        if (c->status > 0 && c->status < STATUSES) statuses[c->status]++;
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
        if (n <= 0 && !c->request) { /* closed by the server while it was free */
            for (int i = 0; i < idle_count; i++)
                if (idle[i] == c) idle[i--] = idle[--idle_count];
            break;
        }
        if (n <= 0) {
            broken++;
            break;
        }
        c->received += n;
        if (c->request && whole(c)) {
            finish(c);
            if (!c->reusable) break;
            rest(c);
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

static void sort(struct series *s) { qsort(s->values, s->count, sizeof *s->values, ascending); }

static double at(const struct series *s, double share) {
    if (!s->count) return 0;
    size_t index = (size_t)(share * s->count);
    return 1e3 * s->values[index < s->count ? index : s->count - 1];
}

static void turn(double seconds) {
    static struct epoll_event events[MAX_CONNECTIONS];
    if (seconds > 0) {
        struct pollfd one = {.fd = poller, .events = POLLIN};
        struct timespec wait = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
        ppoll(&one, 1, &wait, NULL);
    }
    int ready = epoll_wait(poller, events, MAX_CONNECTIONS, 0);
    for (int i = 0; i < ready; i++) {
        struct connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN);
            push(c);
        }
        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) pull(c);
    }
}

int main(int count, char **words) {
    if (count < 6 || count > 8) {
        fprintf(stderr, "usage: loadgen HOST PORT CONNECTIONS SECONDS REQUESTS [FIRST [RATE]]\n");
        return 2;
    }
    int connections = atoi(words[3]);
    double seconds = atof(words[4]);
    if (connections < 1 || connections > MAX_CONNECTIONS) { fprintf(stderr, "1 to %d connections\n", MAX_CONNECTIONS); return 2; }
    load(words[5]);
    if (count > 6) next_request = strtoul(words[6], NULL, 10);
    if (count > 7) rate = atof(words[7]);
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(words[2]));
    if (inet_pton(AF_INET, words[1], &address.sin_addr) != 1) { fprintf(stderr, "not an IPv4 address\n"); return 2; }
    poller = epoll_create1(0);
    static struct connection all[MAX_CONNECTIONS];
    begun = now();
    for (int i = 0; i < connections; i++) connect_anew(&all[i]);
    double end = begun + seconds, clock;
    while ((clock = now()) < end && reconnects <= 100000) {
        double wait = rate ? send_due() : end - clock;
        turn(wait < end - clock ? wait : end - clock);
    }
    double took = now() - begun;
    over = 1;
    while (idle_count < connections && (clock = now()) < end + DRAIN_SECONDS) {
        turn(end + DRAIN_SECONDS - clock);
    }
    sort(&answered);
    sort(&refusals);
    double sum = 0;
    for (size_t i = 0; i < answered.count; i++) sum += answered.values[i];
    printf("{\"rps\": %.1f, \"requests\": %zu, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"mean\": %.3f, "
           "\"refused\": %zu, \"refused_p50\": %.3f, \"refused_p99\": %.3f, \"broken\": %ld, \"late\": %ld, "
           "\"unsent\": %ld, \"hanging\": %d, \"status\": %d, \"next\": %zu, \"classes\": [",
           answered.count / took, answered.count, at(&answered, .5), at(&answered, .9), at(&answered, .99),
           answered.count ? 1e3 * sum / answered.count : 0, refusals.count, at(&refusals, .5), at(&refusals, .99), broken,
           late, unsent, connections - idle_count, first_bad_status, next_request);
    for (int i = 0; i < CLASSES; i++) {
        sort(&by_class[i]);
        printf("%s{\"requests\": %zu, \"p50\": %.3f, \"p99\": %.3f}", i ? ", " : "", by_class[i].count,
               at(&by_class[i], .5), at(&by_class[i], .99));
    }
    printf("], \"statuses\": {");
    for (int i = 0, any = 0; i < STATUSES; i++)
        if (statuses[i]) printf("%s\"%d\": %ld", any++ ? ", " : "", i, statuses[i]);
    printf("}}\n");
    return 0;
}
