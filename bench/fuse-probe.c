/* Programs for the FUSE benchmark: they make the calls to be measured, and nothing else, and time them.
 *   probe lookups DIR              lstat each path on stdin            → seconds
 *   probe sequential DIR           read each file on stdin, 1 MiB a call → seconds bytes
 *   probe random DIR THREADS READS 4 KiB at random pages of the files on stdin, no page twice → seconds p50_us p99_us
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_PATHS 200000
#define PAGE 4096

static char *paths[MAX_PATHS];
static size_t path_count;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void read_paths(void) {
  static char line[1 << 14];
  while (path_count < MAX_PATHS && fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    paths[path_count++] = strdup(line);
  }
}

static void lookups(void) {
  struct stat st;
  double start = now();
  for (size_t i = 0; i < path_count; i++)
    if (lstat(paths[i], &st) != 0) die(paths[i]);
  printf("%.9f\n", now() - start);
}

static void sequential(void) {
  static char buffer[1 << 20];
  long long bytes = 0;
  double start = now();
  for (size_t i = 0; i < path_count; i++) {
    int fd = open(paths[i], O_RDONLY);
    if (fd < 0) die(paths[i]);
    ssize_t n;
    while ((n = read(fd, buffer, sizeof buffer)) > 0) bytes += n;
    if (n < 0) die(paths[i]);
    close(fd);
  }
  printf("%.9f %lld\n", now() - start, bytes);
}

struct place {
  int fd;
  off_t offset;
};
static struct place *places;
static double *taken;
static size_t place_count, next_place;

static void *reader(void *unused) {
  char buffer[PAGE];
  for (;;) {
    size_t i = __atomic_fetch_add(&next_place, 1, __ATOMIC_RELAXED);
    if (i >= place_count) return unused;
    double start = now();
    if (pread(places[i].fd, buffer, PAGE, places[i].offset) <= 0) die("pread");
    taken[i] = now() - start;
  }
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void random_reads(int threads, size_t reads) {
  size_t pages = 0, room = 1 << 20;
  struct place *all = malloc(room * sizeof *all);
  for (size_t i = 0; i < path_count; i++) {
    int fd = open(paths[i], O_RDONLY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) die(paths[i]);
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* one page, one request */
    for (off_t at = 0; at < st.st_size && pages < room; at += PAGE) all[pages++] = (struct place){fd, at};
  }
  srandom(1);
  for (size_t i = pages; i > 1; i--) {
    size_t j = random() % i;
    struct place swap = all[i - 1];
    all[i - 1] = all[j];
    all[j] = swap;
  }
  places = all;
  place_count = reads < pages ? reads : pages;
  taken = calloc(place_count, sizeof *taken);
  pthread_t ids[64];
  double start = now();
  for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, reader, NULL);
  for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  double total = now() - start;
  qsort(taken, place_count, sizeof *taken, by_value);
  printf("%.9f %.3f %.3f\n", total, taken[place_count / 2] * 1e6, taken[place_count * 99 / 100] * 1e6);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  read_paths();
  if (chdir(argv[2]) != 0) die(argv[2]);
  if (strcmp(argv[1], "lookups") == 0) lookups();
  else if (strcmp(argv[1], "sequential") == 0) sequential();
  else if (strcmp(argv[1], "random") == 0 && argc == 5) random_reads(atoi(argv[3]), strtoul(argv[4], NULL, 10));
  else return 2;
  return 0;
}
