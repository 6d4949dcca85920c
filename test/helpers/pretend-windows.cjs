'use strict'
// Loaded before the program (NODE_OPTIONS=--require): takes away what Windows has not, and says that this is it. Paths
// stay those of this machine.
const fs = require('node:fs')
const Module = require('node:module')

Object.defineProperty(process, 'platform', { value: 'win32' })
for (const name of ['getuid', 'geteuid', 'getgid', 'getegid', 'getgroups', 'setuid', 'setgid'])
  delete process[name]

const constants = Object.fromEntries(
  Object.entries(fs.constants).filter(
    ([name]) => !/^O_(NOFOLLOW|NONBLOCK|DIRECTORY|SYNC|DSYNC|NOCTTY|NOATIME)$/.test(name),
  ),
)
const isProc = (path) => typeof path === 'string' && path.startsWith('/proc')
const absent = (path) => Object.assign(new Error(`ENOENT: ${path}`), { code: 'ENOENT', syscall: 'open' })
const pretended = { ...fs, constants, existsSync: (path) => !isProc(path) && fs.existsSync(path) }
for (const name of ['readFileSync', 'openSync', 'readdirSync', 'lstatSync', 'statSync']) {
  pretended[name] = (path, ...rest) => {
    if (isProc(path)) throw absent(path)
    return fs[name](path, ...rest)
  }
}
const load = Module._load
Module._load = function (request, ...rest) {
  return request === 'node:fs' || request === 'fs' ? pretended : load.call(this, request, ...rest)
}
