// Replaces one of NVIDIA's libraries for linking on a machine without it. It defines every function of the library; a function
// looks up the real one at its first call. So the program starts without NVIDIA libraries, and without the real library each
// function returns the library's own error status. `libraries.py` defines:
//
//   NAMES      the file names to search for, best first
//   MISSING    what a function that returns a status returns without the library
//   FUNCTIONS  a file with one FUNCTION(number, name, kind) per function; kind: status, text or number
#include <dlfcn.h>
#include <pthread.h>

static const char *const names[] = {NAMES};

static int status(void) { return MISSING; }
static const char *text(void) { return "the library could not be loaded"; }
static unsigned long number(void) { return 0; }

static const struct {
    const char *name;
    void *without;
} functions[] = {
#define FUNCTION(at, name, kind) {#name, (void *)kind},
#include FUNCTIONS
#undef FUNCTION
};

static void *library;

static void open_library(void) {
    for (unsigned i = 0; !library && i < sizeof names / sizeof *names; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
}

// Address of each function after its first call. Two threads that look one up at the same time store the same address.
__attribute__((used)) static void *found[sizeof functions / sizeof *functions];

__attribute__((used)) static void *find(unsigned at) {
    static pthread_once_t opened = PTHREAD_ONCE_INIT;
    pthread_once(&opened, open_library);
    void *real = library ? dlsym(library, functions[at].name) : 0;
    if (!real) real = functions[at].without;
    __atomic_store_n(&found[at], real, __ATOMIC_RELEASE);
    return real;
}

// A function here does not know the number and types of its arguments: it jumps, and leaves registers and stack unchanged.
#define FUNCTION(at, name, kind)                \
    asm(".globl " #name "\n"                    \
        ".type " #name ", @function\n"          \
        #name ": endbr64\n"                     \
        "  movq found+8*" #at "(%rip), %r11\n"  \
        "  testq %r11, %r11\n"                  \
        "  jz 1f\n"                             \
        "  jmp *%r11\n"                         \
        "1: movl $" #at ", %r11d\n"             \
        "  jmp find_first\n");
#include FUNCTIONS

// First call: saves every register that may hold an argument while `find` runs, with the stack aligned to 16 bytes.
asm("find_first:\n"
    "  pushq %rbp\n"
    "  movq %rsp, %rbp\n"
    "  pushq %rdi; pushq %rsi; pushq %rdx; pushq %rcx; pushq %r8; pushq %r9\n"
    "  subq $128, %rsp\n"
    "  movups %xmm0, 0(%rsp); movups %xmm1, 16(%rsp); movups %xmm2, 32(%rsp); movups %xmm3, 48(%rsp)\n"
    "  movups %xmm4, 64(%rsp); movups %xmm5, 80(%rsp); movups %xmm6, 96(%rsp); movups %xmm7, 112(%rsp)\n"
    "  pushq %rax\n" // how many of the xmm registers are arguments, where a C function takes any number of them
    "  subq $8, %rsp\n"
    "  movl %r11d, %edi\n"
    "  call find\n"
    "  movq %rax, %r11\n"
    "  addq $8, %rsp\n"
    "  popq %rax\n"
    "  movups 0(%rsp), %xmm0; movups 16(%rsp), %xmm1; movups 32(%rsp), %xmm2; movups 48(%rsp), %xmm3\n"
    "  movups 64(%rsp), %xmm4; movups 80(%rsp), %xmm5; movups 96(%rsp), %xmm6; movups 112(%rsp), %xmm7\n"
    "  addq $128, %rsp\n"
    "  popq %r9; popq %r8; popq %rcx; popq %rdx; popq %rsi; popq %rdi\n"
    "  popq %rbp\n"
    "  jmp *%r11\n");
