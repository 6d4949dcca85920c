import { expect, test } from 'vitest'
import { didYouMean, nearest } from '../../src/config/nearest.ts'

const names = ['TIMONE_STORAGE_S3_BUCKET', 'TIMONE_STORAGE_S3_REGION', 'TIMONE_LISTEN', 'TIMONE_DATA']

test.each([
  ['TIMONE_LISTEN', 'TIMONE_LISTEN'],
  ['TIMONE_LISTNE', 'TIMONE_LISTEN'],
  ['TIMONE_STORAGE_S3_BUCKT', 'TIMONE_STORAGE_S3_BUCKET'],
  ['timone_data', 'TIMONE_DATA'],
  ['TIMONE_S3_BUCKET', 'TIMONE_STORAGE_S3_BUCKET'],
  ['HOME', undefined],
  ['', undefined],
])('nearest to %j is %j', (name, found) => expect(nearest(name, names)).toBe(found))

test('didYouMean says nothing where nothing is near', () => {
  expect(didYouMean('TIMONE_DATE', names)).toBe('. Did you mean TIMONE_DATA?')
  expect(didYouMean('completely different', names)).toBe('')
})
