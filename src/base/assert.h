/* base/assert.h - statements about our own code that must hold.
 *
 * fl_assert() is on in release builds: a broken invariant stops the process with
 * the condition and the place. Bytes from files, sockets and users never reach
 * one; they get an fl_err. fl_debug_assert() is for inner loops and disappears
 * unless the build defines FL_DEBUG.
 */
#ifndef BASE_ASSERT_H
#define BASE_ASSERT_H

_Noreturn void base_assert_fail(const char *condition, const char *file, int line);

#define fl_assert(c) ((c) ? (void)0 : base_assert_fail(#c, __FILE__, __LINE__))

#ifdef FL_DEBUG
#define fl_debug_assert(c) fl_assert(c)
#else
#define fl_debug_assert(c) ((void)sizeof(c))
#endif

#endif
