import { expect, test } from 'vitest'
import { ClientAddresses } from '../../src/server/client-address.ts'

const PROXIES = ['127.0.0.1', '10.0.0.0/8', 'fd00::/8', '::1']

test.each<[string, string | undefined, string | string[] | undefined, string]>([
  ['nobody between', '192.0.2.1', undefined, '192.0.2.1'],
  ['somebody who is no proxy says they are somebody else', '192.0.2.1', '198.51.100.7', '192.0.2.1'],
  ['a proxy', '10.1.2.3', '198.51.100.7', '198.51.100.7'],
  ['a proxy before us, on a socket for both families', '::ffff:10.1.2.3', '198.51.100.7', '198.51.100.7'],
  ['a client that made up the beginning', '10.1.2.3', '203.0.113.66, 198.51.100.7', '198.51.100.7'],
  [
    'a client that made up a trusted proxy',
    '10.1.2.3',
    '203.0.113.66, 127.0.0.1, 198.51.100.7',
    '198.51.100.7',
  ],
  ['two proxies', '127.0.0.1', '198.51.100.7, 10.9.9.9', '198.51.100.7'],
  ['the header twice', '127.0.0.1', ['203.0.113.66', '198.51.100.7'], '198.51.100.7'],
  ['proxies alone', '127.0.0.1', '10.9.9.9', '10.9.9.9'],
  ['IPv6', 'fd00::1', '2001:db8::7', '2001:db8::7'],
  ['with ports', '10.1.2.3', '198.51.100.7:4711', '198.51.100.7'],
  ['IPv6 with a port', '10.1.2.3', '[2001:db8::7]:4711', '2001:db8::7'],
  ['nonsense', '10.1.2.3', '198.51.100.7, <script>', '10.1.2.3'],
  ['nonsense in an address', '10.1.2.3', 'fe80::1%eth0', '10.1.2.3'],
  ['nothing', '10.1.2.3', '', '10.1.2.3'],
  ['unknown', '10.1.2.3', 'unknown', '10.1.2.3'],
  ['a connection that has gone', undefined, '198.51.100.7', ''],
  ['a header without end', '10.1.2.3', `${'1.1.1.1,'.repeat(10_000)}198.51.100.7`, '198.51.100.7'],
])('%s', (_name, peer, forwarded, address) => {
  expect(new ClientAddresses(PROXIES).of(peer, forwarded)).toBe(address)
})

test('without trusted proxies the header is never read', () => {
  expect(new ClientAddresses([]).of('127.0.0.1', '198.51.100.7')).toBe('127.0.0.1')
})
