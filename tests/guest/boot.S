# The lab's guest: a boot sector that counts its boots on its own disk by BIOS calls alone.
#
# It reads sector 1, adds one to the 32-bit number at its start, writes it back, reads it again, and
# says on COM1: "p2v guest: boot N". Then it halts, and does it all again for each key. Any BIOS that
# boots it has shown that the disk can be booted from, read and written.
    .code16
    .text
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    ljmp $0, $main
main:
    sti
    cld
    movb %dl, drive

    # COM1: 115200 baud, 8 bits, no parity.
    movw $0x3fb, %dx
    movb $0x80, %al
    outb %al, %dx
    movw $0x3f8, %dx
    movb $1, %al
    outb %al, %dx
    incw %dx
    xorb %al, %al
    outb %al, %dx
    movw $0x3fb, %dx
    movb $3, %al
    outb %al, %dx

count:
    movb $0x42, %ah
    call disk
    incl 0x8000
    movb $0x43, %ah
    call disk
    movl 0x8000, %ebx
    movl $0, 0x8000
    movb $0x42, %ah
    call disk
    cmpl %ebx, 0x8000
    jne failed

    movw $said, %si
    call print
    movl 0x8000, %eax
    call number
    movw $newline, %si
    call print
    # Waits for a key.
    xorb %ah, %ah
    int $0x16
    movl $0, 0x8000
    jmp count
halt:
    hlt
    jmp halt

# INT 13h, function AH (42h read, 43h write), of the packet.
disk:
    movb drive, %dl
    xorb %al, %al
    movw $packet, %si
    int $0x13
    jc failed
    ret

failed:
    movw $failure, %si
    call print
    jmp halt

# Prints EAX in decimal.
number:
    movl $10, %ecx
    xorl %edx, %edx
    divl %ecx
    pushw %dx
    testl %eax, %eax
    jz 1f
    call number
1:  popw %ax
    addb $'0', %al
    jmp putc

print:
    lodsb
    testb %al, %al
    jz 2f
    call putc
    jmp print
2:  ret

putc:
    movb %al, %ah
    movw $0x3fd, %dx
3:  inb %dx, %al
    testb $0x20, %al
    jz 3b
    movw $0x3f8, %dx
    movb %ah, %al
    outb %al, %dx
    ret

said:
    .asciz "p2v guest: boot "
newline:
    .asciz "\r\n"
failure:
    .asciz "p2v guest: DISK ERROR\r\n"
drive:
    .byte 0
    .balign 4
packet:
    .byte 16, 0
    .word 1, 0x8000, 0
    .quad 1

    .org 440
    .org 510
    .word 0xaa55
