/**
 * The program for push, pull and fetch. In the bundle it is a part of its own, without the other commands: compiling the
 * server takes longer than a pull that finds nothing to do.
 */
export { run } from './program.ts'
