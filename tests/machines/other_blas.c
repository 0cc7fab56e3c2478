/* Another BLAS for NumPy's wheels: loaded before their OpenBLAS (LD_PRELOAD), it takes the place of
 * the functions with which NumPy multiplies. They are plain loops that add the last term first; or,
 * where OTHER_BLAS names a library with the CBLAS interface and int as integers, those of that
 * library. It counts its calls, so that a test knows that it was used.
 *
 * The file includes itself: the second part is read once for float and once for double.
 */
#ifndef NUMBER

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROW = 101, NO = 111, UPPER = 121 };
enum { BLOCK = 256 }; /* columns of a product at a time, for the caches */

static long calls;
static void *library;

long other_blas_calls(void) { return calls; }

/* What computes. */
const char *other_blas_name(void) {
    Dl_info found;
    void *function = library ? dlsym(library, "cblas_dgemm") : NULL;
    return function && dladdr(function, &found) ? found.dli_fname : "plain loops";
}

__attribute__((constructor)) static void load(void) {
    const char *name = getenv("OTHER_BLAS");
    if (name && !(library = dlopen(name, RTLD_NOW | RTLD_LOCAL))) {
        fprintf(stderr, "OTHER_BLAS: %s\n", dlerror());
        exit(2);
    }
}

/* Counts a call; the library's function, NULL without a library. */
static void *other(const char *name) {
    __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED);
    return library ? dlsym(library, name) : NULL;
}

#define NUMBER float
#define OURS(name) scipy_cblas_s##name##64_
#define THEIRS(name) other("cblas_s" name)
#include "other_blas.c"
#undef NUMBER
#undef OURS
#undef THEIRS
#define NUMBER double
#define OURS(name) scipy_cblas_d##name##64_
#define THEIRS(name) other("cblas_d" name)
#include "other_blas.c"

#else

NUMBER OURS(dot)(int64_t n, const NUMBER *x, int64_t incx, const NUMBER *y, int64_t incy) {
    NUMBER (*dot)(int, const NUMBER *, int, const NUMBER *, int) = THEIRS("dot");
    if (dot) return dot(n, x, incx, y, incy);
    NUMBER sum = 0; /* NumPy gives no negative strides */
    for (int64_t i = n - 1; i >= 0; i--) sum += x[i * incx] * y[i * incy];
    return sum;
}

void OURS(gemv)(int order, int trans, int64_t m, int64_t n, NUMBER alpha, const NUMBER *a,
                int64_t lda, const NUMBER *x, int64_t incx, NUMBER beta, NUMBER *y, int64_t incy) {
    void (*gemv)(int, int, int, int, NUMBER, const NUMBER *, int, const NUMBER *, int, NUMBER,
                 NUMBER *, int) = THEIRS("gemv");
    if (gemv) {
        gemv(order, trans, m, n, alpha, a, lda, x, incx, beta, y, incy);
        return;
    }
    int by_row = (order == ROW) == (trans == NO); /* whether a row of the matrix is contiguous */
    int64_t rows = trans == NO ? m : n, terms = trans == NO ? n : m;
    for (int64_t i = 0; i < rows; i++) {
        NUMBER sum = 0;
        for (int64_t k = terms - 1; k >= 0; k--)
            sum += (by_row ? a[i * lda + k] : a[k * lda + i]) * x[k * incx];
        y[i * incy] = alpha * sum + (beta == 0 ? 0 : beta * y[i * incy]);
    }
}

void OURS(gemm)(int order, int ta, int tb, int64_t m, int64_t n, int64_t terms, NUMBER alpha,
                const NUMBER *a, int64_t lda, const NUMBER *b, int64_t ldb, NUMBER beta, NUMBER *c,
                int64_t ldc) {
    void (*gemm)(int, int, int, int, int, int, NUMBER, const NUMBER *, int, const NUMBER *, int,
                 NUMBER, NUMBER *, int) = THEIRS("gemm");
    if (gemm) {
        gemm(order, ta, tb, m, n, terms, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    if (order != ROW) { /* by columns: the product of the transposed matrices, by rows */
        int trans = ta;
        int64_t size = m, stride = lda;
        const NUMBER *matrix = a;
        ta = tb, m = n, lda = ldb, a = b;
        tb = trans, n = size, ldb = stride, b = matrix;
    }
    NUMBER *packed = malloc(terms * BLOCK * sizeof(NUMBER));
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t width = n - first < BLOCK ? n - first : BLOCK;
        for (int64_t k = 0; k < terms; k++)
            for (int64_t j = 0; j < width; j++)
                packed[k * width + j] = tb == NO ? b[k * ldb + first + j] : b[(first + j) * ldb + k];
        for (int64_t i = 0; i < m; i++) {
            NUMBER *row = c + i * ldc + first;
            for (int64_t j = 0; j < width; j++) row[j] = beta == 0 ? 0 : beta * row[j];
            for (int64_t k = terms - 1; k >= 0; k--) {
                NUMBER factor = alpha * (ta == NO ? a[i * lda + k] : a[k * lda + i]);
                for (int64_t j = 0; j < width; j++) row[j] += factor * packed[k * width + j];
            }
        }
    }
    free(packed);
}

void OURS(syrk)(int order, int uplo, int trans, int64_t n, int64_t terms, NUMBER alpha,
                const NUMBER *a, int64_t lda, NUMBER beta, NUMBER *c, int64_t ldc) {
    void (*syrk)(int, int, int, int, int, NUMBER, const NUMBER *, int, NUMBER, NUMBER *, int) =
        THEIRS("syrk");
    if (syrk) {
        syrk(order, uplo, trans, n, terms, alpha, a, lda, beta, c, ldc);
        return;
    }
    int by_row = (order == ROW) == (trans == NO), upper = (order == ROW) == (uplo == UPPER);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = upper ? i : 0; j < (upper ? n : i + 1); j++) {
            NUMBER sum = 0;
            for (int64_t k = terms - 1; k >= 0; k--)
                sum += by_row ? a[i * lda + k] * a[j * lda + k] : a[k * lda + i] * a[k * lda + j];
            c[i * ldc + j] = alpha * sum + (beta == 0 ? 0 : beta * c[i * ldc + j]);
        }
}

#endif
